"""Clients that repeat the asks, and what became of each request: right, wrong or failed, and how long it paused."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.chaos.answer import Answer, Failed, difference
from bench.chaos.asks import Ask, Clients
from mesh.context import RequestContext, bind

# After a failure, so that clients of a mesh that refuses at once do not only count refusals.
_AFTER_FAILURE_S = 0.5
# Beyond the request's own limit, which the mesh or the client is to keep.
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request. Times in seconds since the load began. longest_pause_s: without a part, from the start to the end.

    request_id: by which the logs of all services name it. error: why it failed. difference: in what a whole answer was
    not the right one.
    """

    request_id: str
    ask: str
    kind: str
    started_s: float
    ended_s: float
    longest_pause_s: float
    num_parts: int
    error: str | None = None
    difference: str | None = None


class Load:
    """`outcomes` grows while it runs; `num_streaming`: requests of which a part has come, and not the end."""

    def __init__(
        self,
        asks: Sequence[Ask],
        expected: Mapping[str, Answer],
        clients: Clients,
        *,
        rng: random.Random,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """expected: the right answer by the name of the ask."""
        self.outcomes: list[Outcome] = []
        self.num_streaming = 0
        self._num_requests = 0
        self._order = _endless(asks, rng)
        self._expected = expected
        self._clients = clients
        self._now = now
        self._began = now()

    def clock_s(self) -> float:
        """Seconds since the load began."""
        return self._now() - self._began

    async def run(self, concurrency: int, until: asyncio.Event) -> None:
        """Keep `concurrency` requests going; when `until` is set, those that run come to their end."""
        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(self._repeat(until))

    async def _repeat(self, until: asyncio.Event) -> None:
        while not until.is_set():
            outcome = await self.request(next(self._order))
            self.outcomes.append(outcome)
            if outcome.error is not None:
                await asyncio.sleep(_AFTER_FAILURE_S)

    async def request(self, ask: Ask) -> Outcome:
        """One request, timed and compared."""
        self._num_requests += 1
        request_id = f"chaos-{self._num_requests}"
        started = self.clock_s()
        times = [started]

        def heard() -> None:
            if len(times) == 1:
                self.num_streaming += 1
            times.append(self.clock_s())

        error: str | None = None
        answer: Answer | None = None
        try:
            with bind(RequestContext(request_id)):
                async with asyncio.timeout(self._clients.timeout_s + _GRACE_S):
                    answer = await ask.send(self._clients, heard)
        except Failed as failed:
            error = str(failed)
        except TimeoutError:
            error = f"no answer after {self._clients.timeout_s + _GRACE_S:g} s"
        finally:
            self.num_streaming -= len(times) > 1
        times.append(self.clock_s())
        pauses = [later - earlier for earlier, later in pairwise(times)]
        wrong = None if answer is None else difference(self._expected[ask.name], answer)
        return Outcome(request_id, ask.name, ask.kind, started, times[-1], max(pauses), len(times) - 2, error, wrong)


async def right_answers(asks: Sequence[Ask], clients: Clients, concurrency: int) -> dict[str, Answer]:
    """What each ask is answered while nothing is wrong. Raises Failed."""
    waiting = iter(asks)
    answers: dict[str, Answer] = {}

    async def ask_on() -> None:
        for ask in waiting:
            try:
                answers[ask.name] = await ask.send(clients, lambda: None)
            except Failed as failed:
                raise Failed(f"{ask.name}, without chaos: {failed}") from failed

    await asyncio.gather(*(ask_on() for _ in range(concurrency)))
    return answers


def _endless(asks: Sequence[Ask], rng: random.Random) -> Iterator[Ask]:
    """All asks again and again, in another order each time."""
    while True:
        yield from rng.sample(asks, len(asks))
