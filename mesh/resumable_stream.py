"""A stream that goes on at another replica when its own dies or leaves.

`call` may be made again at any time and then goes on after what it gave. So a break costs time and no message: the
stream is called anew, from the budget that all retries share, as long as there is progress, and for a while when there
is none. Knows no messages; what to ask of the next replica is the call's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias, TypeVar

import grpc
import grpc.aio

from mesh import context
from mesh.attempt_failure import Failure, as_mesh_error, failure_of, is_answer, service_name
from mesh.balancing import Request
from mesh.channel import to_mesh_error
from mesh.departure import Departure, ReplicaLeft
from mesh.endpoints import Endpoint, Target
from mesh.errors import ModelNotFound, ModelNotReady, Overloaded, Unavailable
from mesh.logs import get_logger
from mesh.replica_choice import ReplicaChoice
from mesh.retry import Backoff

log = get_logger(__name__)

T = TypeVar("T")

# How long a broken stream looks for a replica that takes it further: an engine restarts in less, a lease runs out in
# less, and a client would rather know after that.
RESUME_WITHIN_S = 30.0
# Attempts in a row that a replica took and then failed without a message: with more, one request that no engine
# survives would go through all of them.
MAX_FAILED_IN_A_ROW = 3
MAX_RESUMPTIONS = 32

# What gRPC calls it when the way breaks in the middle; of a stream that the replica itself ended so, it is an answer.
_BROKEN = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.CANCELLED,
)


class BrokenAnswer(Exception):
    """Raised by a call: what came is no answer to it, or ended before its time."""


class CannotContinue(Exception):
    """Raised by a call before it gave anything: the replica is well, and cannot take this stream further."""


Break: TypeAlias = grpc.aio.AioRpcError | BrokenAnswer | CannotContinue


async def call_resumable(
    choice: ReplicaChoice,
    target: Target,
    call: Callable[[grpc.aio.Channel], AsyncGenerator[T, None]],
    request: Request,
    now: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[T, None]:
    """As EndpointPool.resumable_stream."""
    recovery = _Recovery(choice, target, request, now)
    while True:
        endpoint = await recovery.choose()
        with choice.endpoints.dispatched(endpoint, request.cost):
            messages = call(endpoint.channel)
            departure = Departure(endpoint, recovery.may_move)
            try:
                while True:
                    message = await departure.read(messages)
                    recovery.progressed(endpoint)
                    yield message
            except StopAsyncIteration:
                choice.succeeded(endpoint)
                return
            except ReplicaLeft:
                failure: Break | None = None
            except CannotContinue as error:
                failure = error
            except (grpc.aio.AioRpcError, BrokenAnswer) as error:
                failure = error
                recovery.failed(endpoint, error)
            finally:
                departure.close()
                await messages.aclose()
        await recovery.ended(endpoint, failure)


class _Recovery:
    """Of one stream: who was tried, and whether and when it is called anew."""

    def __init__(self, choice: ReplicaChoice, target: Target, request: Request, now: Callable[[], float]) -> None:
        self._choice = choice
        self._target = target
        self._now = now
        self._attempts = choice.begin(target, request)
        self._has_begun = False
        self._is_progressing = False
        self._has_moved = False
        self._is_movable = True
        self._num_resumed = 0
        self._num_failed_in_a_row = 0
        self._give_up_at = 0.0
        self._backoff = Backoff(first_s=0.05, limit_s=1.0)

    async def choose(self) -> Endpoint:
        """The replica of the next attempt; a stream that has begun waits for one."""
        while True:
            try:
                endpoint = await self._choice.choose(self._attempts)
                if self._has_moved:
                    # The one that it left was well, and may be back when this one drains in its turn.
                    self._attempts.tried, self._has_moved = [endpoint], False
                return endpoint
            except (Unavailable, Overloaded) as nobody:
                if not self._has_begun:
                    raise
                await self._wait(nobody)

    def progressed(self, endpoint: Endpoint) -> None:
        """A message has come."""
        if not self._is_progressing:
            self._has_begun = self._is_progressing = self._attempts.has_begun = True
            # Who failed before may be back when this one drains.
            self._attempts.tried = [endpoint]
            endpoint.outlier.succeeded()

    def failed(self, endpoint: Endpoint, failure: grpc.aio.AioRpcError | BrokenAnswer) -> None:
        """The attempt has failed; to be said while it is dispatched."""
        self._choice.failed(self._attempts, endpoint, self._as_break(failure))

    def may_move(self) -> bool:
        """True when another replica can take the stream now; spends from the budget."""
        return self._is_movable and self._choice.may_move(self._attempts)

    async def ended(self, endpoint: Endpoint, failure: Break | None) -> None:
        """Return when another attempt is due; raise what the stream's reader is told when there is none.

        failure: None when the stream moves away from a replica that left.
        """
        has_progressed, self._is_progressing = self._is_progressing, False
        if has_progressed:
            self._num_failed_in_a_row = 0
            self._give_up_at = self._now() + RESUME_WITHIN_S
            self._backoff.reset()
        if failure is None:
            self._has_moved = True
            self._resumed(endpoint, "left")
        elif isinstance(failure, CannotContinue):
            self._is_movable = False  # from a replica that can, to one that cannot
            await self._until_another(Unavailable(str(failure)))
            self._resumed(endpoint, "other_model")
        else:
            await self._after_failure(endpoint, failure, has_progressed)

    async def _after_failure(
        self, endpoint: Endpoint, failure: grpc.aio.AioRpcError | BrokenAnswer, has_progressed: bool
    ) -> None:
        error = self._as_break(failure)
        told = self._told(failure, error)
        if not self._has_begun:
            if not self._choice.may_retry(self._attempts):
                raise told from error
            return
        was_taken = isinstance(failure, BrokenAnswer) or (is_answer(error) and not _is_refusal(error))
        if was_taken and not has_progressed:
            self._num_failed_in_a_row += 1
        if (
            failure_of(error, self._target) is Failure.FINAL
            or self._num_failed_in_a_row >= MAX_FAILED_IN_A_ROW
            or self._num_resumed >= MAX_RESUMPTIONS
        ):
            raise told from error
        await self._until_another(told)
        self._resumed(endpoint, "error" if is_answer(error) else "unreachable")

    def _as_break(self, failure: grpc.aio.AioRpcError | BrokenAnswer) -> grpc.aio.AioRpcError:
        """The failure; as UNAVAILABLE when nobody at the other end said it."""
        if isinstance(failure, BrokenAnswer):
            return _unreachable(str(failure))
        if self._has_begun and failure.code() in _BROKEN and not is_answer(failure):
            return _unreachable(failure.details() or failure.code().name)
        return failure

    def _told(self, failure: grpc.aio.AioRpcError | BrokenAnswer, error: grpc.aio.AioRpcError) -> Exception:
        if isinstance(failure, BrokenAnswer):
            service = service_name(self._target.kind)
            return Unavailable(f"the {service} for '{self._target.deployment}' does not answer as it should: {failure}")
        return as_mesh_error(error, self._target)

    async def _until_another(self, error: Exception) -> None:
        """Wait until a replica and the budget allow another attempt."""
        while not self._choice.may_resume(self._attempts):
            await self._wait(error)

    async def _wait(self, error: Exception) -> None:
        """A while before the next look. Raises `error` when the time to look is over."""
        left_s = self._give_up_at - self._now()
        if left_s <= 0 or context.remaining_s(default=1.0) == 0:
            raise error
        await asyncio.sleep(min(left_s, self._backoff.next_s()))
        if not self._choice.has_untried(self._attempts):
            self._attempts.tried.clear()  # who failed may be back

    def _resumed(self, endpoint: Endpoint, reason: str) -> None:
        self._num_resumed += 1
        self._choice.resumed(self._target, reason)
        log.info("stream_resumed", service=service_name(self._target.kind), replica=endpoint.replica.id, reason=reason)


def _is_refusal(error: grpc.aio.AioRpcError) -> bool:
    """True when the replica did not try: it starts its engine anew, is full, or has another model."""
    return isinstance(to_mesh_error(error), ModelNotReady | Overloaded | ModelNotFound)


def _unreachable(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
