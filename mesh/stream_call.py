"""A call with a stream of answers, made at one replica after another until one begins to answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TypeVar

import grpc.aio

from mesh.balancing import Request
from mesh.endpoints import Endpoint, Target
from mesh.replica_choice import ReplicaChoice, as_mesh_error

T = TypeVar("T")


async def call_stream(
    choice: ReplicaChoice, target: Target, call: Callable[[grpc.aio.Channel], AsyncIterable[T]], request: Request
) -> AsyncGenerator[T, None]:
    """As EndpointPool.stream."""
    choice.on_request()
    tried: list[Endpoint] = []
    has_begun = False
    while True:
        endpoint = choice.choose(target, request, tried)
        with choice.endpoints.dispatched(endpoint, request.cost):
            messages = call(endpoint.channel)
            try:
                async for message in messages:
                    if not has_begun:
                        has_begun = True
                        endpoint.outlier.succeeded()
                    yield message
                choice.succeeded(endpoint)
                return
            except grpc.aio.AioRpcError as error:
                failure = error
            finally:
                await end_call(messages)
        choice.failed(endpoint, failure)
        if has_begun or not choice.may_retry(target, tried, failure):
            raise as_mesh_error(failure, target) from failure


async def end_call(messages: AsyncIterable[T]) -> None:
    """Cancel a gRPC call that was left early, or close a generator around one. Does nothing to what has ended."""
    if isinstance(messages, AsyncGenerator):
        await messages.aclose()
    elif isinstance(messages, grpc.aio.Call):
        messages.cancel()
