"""A call with one answer, made at one replica after another until one answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from mesh.balancing import Request
from mesh.endpoints import Endpoint, Target
from mesh.replica_choice import ReplicaChoice, as_mesh_error

T = TypeVar("T")


async def call_unary(
    choice: ReplicaChoice, target: Target, call: Callable[[grpc.aio.Channel], Awaitable[T]], request: Request
) -> T:
    """As EndpointPool.unary."""
    choice.on_request()
    tried: list[Endpoint] = []
    while True:
        endpoint = choice.choose(target, request, tried)
        with choice.endpoints.dispatched(endpoint, request.cost):
            try:
                result = await call(endpoint.channel)
            except grpc.aio.AioRpcError as error:
                failure = error
            else:
                choice.succeeded(endpoint)
                return result
        choice.failed(endpoint, failure)
        if not choice.may_retry(target, tried, failure):
            raise as_mesh_error(failure, target) from failure
