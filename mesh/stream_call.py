"""A call with a stream of answers, made at one replica after another until one begins to answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TypeVar

import grpc.aio

from mesh.attempt_failure import as_mesh_error
from mesh.balancing import Request
from mesh.endpoints import Target
from mesh.replica_choice import ReplicaChoice

T = TypeVar("T")


async def call_stream(
    choice: ReplicaChoice, target: Target, call: Callable[[grpc.aio.Channel], AsyncIterable[T]], request: Request
) -> AsyncGenerator[T, None]:
    """As EndpointPool.stream."""
    attempts = choice.begin(target, request)
    has_begun = False
    while True:
        endpoint = await choice.choose(attempts)
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
                choice.failed(attempts, endpoint, error)
            finally:
                await end_call(messages)
        if has_begun or not choice.may_retry(attempts):
            raise as_mesh_error(failure, target) from failure


async def end_call(messages: AsyncIterable[T]) -> None:
    """Cancel a gRPC call that was left early, or close a generator around one. Does nothing to what has ended."""
    if isinstance(messages, AsyncGenerator):
        await messages.aclose()
    elif isinstance(messages, grpc.aio.Call):
        messages.cancel()
