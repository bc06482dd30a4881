"""A call with one answer, made at one replica after another until one answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from mesh.attempt_failure import as_mesh_error
from mesh.balancing import Request
from mesh.endpoints import Endpoint, Target
from mesh.hedging import first_good
from mesh.replica_choice import Attempts, ReplicaChoice

T = TypeVar("T")
Call = Callable[[grpc.aio.Channel], Awaitable[T]]


async def call_unary(choice: ReplicaChoice, target: Target, call: Call[T], request: Request) -> T:
    """As EndpointPool.unary."""
    attempts = choice.begin(target, request)
    while True:
        endpoint = await choice.choose(attempts)
        try:
            if choice.limits.hedge_after_s:
                return await _hedged(choice, attempts, endpoint, call)
            choice.endpoints.reserve(endpoint, request.cost)
            try:
                return await _attempt(choice, attempts, endpoint, call)
            finally:
                choice.endpoints.release(endpoint, request.cost)
        except grpc.aio.AioRpcError as error:
            if not choice.may_retry(attempts):
                raise as_mesh_error(error, target) from error


async def _attempt(choice: ReplicaChoice, attempts: Attempts, endpoint: Endpoint, call: Call[T]) -> T:
    try:
        result = await call(endpoint.channel)
    except grpc.aio.AioRpcError as error:
        choice.failed(attempts, endpoint, error)
        raise
    choice.succeeded(endpoint)
    return result


async def _hedged(choice: ReplicaChoice, attempts: Attempts, endpoint: Endpoint, call: Call[T]) -> T:
    """The answer of `endpoint`, or of a second replica when it is slow."""

    def begin(endpoint: Endpoint) -> asyncio.Task[T]:
        # Counted from now on, and to the end of a task that may never run: not by a block inside it.
        cost = attempts.request.cost
        choice.endpoints.reserve(endpoint, cost)
        task = asyncio.create_task(_attempt(choice, attempts, endpoint, call))
        task.add_done_callback(lambda _: choice.endpoints.release(endpoint, cost))
        return task

    def begin_second() -> asyncio.Task[T] | None:
        second = choice.hedge(attempts)
        return None if second is None else begin(second)

    return await first_good(begin(endpoint), choice.limits.hedge_after_s, begin_second)
