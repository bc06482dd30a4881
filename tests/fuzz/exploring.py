"""Runs a strategy's cases, many at once, against a server, and judges each answer.

hypothesis chooses the cases and shrinks what fails; here they are sent in batches, each call with a deadline, and after
each batch a good request must be answered. Nothing is known of what the cases are.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import strategies as st

BATCH = 40
# For one call on a machine that does other things besides. A hang takes this long, a slow case half of it.
CALL_S = 30.0
SLOW_S = 15.0


class Case(Protocol):
    """What is sent. `words` says it to a person."""

    @property
    def words(self) -> str: ...


C = TypeVar("C", bound=Case)


@dataclass(frozen=True)
class Answer:
    """outcome: the status, or whatever the answer is counted by. fault: what is wrong with it; None when nothing is."""

    outcome: str
    fault: str | None = None


@dataclass
class Exploration(Generic[C]):
    """ask: sends one case. is_well: a good request is answered as it must be."""

    ask: Callable[[C], Awaitable[Answer]]
    is_well: Callable[[], Awaitable[bool]]
    runner: asyncio.Runner
    num_cases: int
    seed: int
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0
    slowest: str = ""
    first_faults: str = ""

    def explore(self, cases: st.SearchStrategy[C]) -> None:
        """Run `num_cases` of `cases`. Raises AssertionError with the smallest case that fails, and the seed."""

        @hypothesis.seed(self.seed)
        @hypothesis.settings(
            max_examples=max(1, self.num_cases // BATCH),
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        )
        @given(st.lists(cases, min_size=BATCH, max_size=BATCH))
        def run(batch: list[C]) -> None:
            faults = self.runner.run(self._run(batch))
            if faults and not self.first_faults:
                # Shrinking may take minutes: a run that is ended meanwhile has said something.
                self.first_faults = "\n".join(faults)
                sys.stdout.write(f"first found with --fuzz-seed {self.seed}: {self.first_faults[:4000]}\n")
            assert not faults, f"with --fuzz-seed {self.seed}:\n" + "\n".join(faults)

        run()

    async def _run(self, batch: list[C]) -> list[str]:
        """What was wrong, in words, with the case."""
        answers = await asyncio.gather(*map(self._timed, batch))
        faults = [f"{case.words}: {answer.fault}" for case, answer in zip(batch, answers, strict=True) if answer.fault]
        self.outcomes.update(answer.outcome for answer in answers)
        if not faults and not await self.is_well():
            faults.append("a good request was not answered after this batch")
        return faults

    async def _timed(self, case: C) -> Answer:
        started = time.monotonic()
        try:
            async with asyncio.timeout(CALL_S):
                answer = await self.ask(case)
        except TimeoutError:
            return Answer("no answer", f"no answer within {CALL_S:g} s")
        took_s = time.monotonic() - started
        if took_s > self.slowest_s:
            self.slowest_s, self.slowest = took_s, case.words
        if took_s > SLOW_S and answer.fault is None:
            return Answer(answer.outcome, f"took {took_s:.1f} s")
        return answer
