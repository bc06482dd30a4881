"""A replica with an engine that batches continuously, as a queueing server: exact between its events, and no steps.

One prompt at a time is read (prefill) while decoding pauses; what the prefix cache holds of it is not read again.
Sequences that are read decode together: a step takes longer the more they are, and gives each of them one token.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass

from bench.balancing.prefix_cache import PrefixCache
from bench.balancing.workload import BLOCK_TOKENS, Prompt

INFINITE = float("inf")


@dataclass(frozen=True, slots=True)
class Speed:
    """Of an engine: the defaults are about those of an 8B model on one data centre GPU of 2022."""

    prefill_tokens_per_s: float = 8000.0
    step_s: float = 0.020
    step_s_per_sequence: float = 0.00025
    max_running: int = 32
    cache_blocks: int = 2048  # 131,072 tokens

    def service_s(self, prompt_tokens: float, answer_tokens: float) -> float:
        """What a request takes of a full replica's time when nothing of its prompt is held."""
        step_s = self.step_s + self.step_s_per_sequence * self.max_running
        return prompt_tokens / self.prefill_tokens_per_s + answer_tokens * step_s / self.max_running


@dataclass(slots=True, eq=False)
class Job:
    """A request at one replica."""

    prompt: Prompt
    first_token_s: float = INFINITE
    cached_tokens: int = 0


class Replica:
    """Owns its jobs. The simulation calls `advance` at each `next_s`."""

    def __init__(self, id: str, speed: Speed, factor: float = 1.0) -> None:
        """factor: how many times as fast as `speed` it is."""
        self.id = id
        self.speed = speed
        self.factor = factor
        self.cache = PrefixCache(speed.cache_blocks)
        self.waiting: deque[Job] = deque()
        self.next_s = INFINITE
        self.work = 0.0  # cost of all jobs here, as their gateways reckon it
        self._coming: dict[int, int] = {}  # blocks of prompts that are not read yet, and in how many of them each is
        self._reading: Job | None = None
        self._running: list[tuple[float, int, Job]] = []  # a heap by the step in which each ends
        self._steps = 0.0  # that every running sequence has seen
        self._ends = 0.0  # sum over running sequences
        self._now = 0.0

    @property
    def num_jobs(self) -> int:
        return len(self.waiting) + len(self._running) + (self._reading is not None)

    def jobs(self) -> list[Job]:
        """All that has not ended."""
        reading = [] if self._reading is None else [self._reading]
        return [*reading, *(job for _, _, job in self._running), *self.waiting]

    def remaining_s(self, now: float) -> float:
        """How long the replica would take for all that it has, of prompts that nothing is held of."""
        steps = self._steps
        if self._reading is None and self._running:
            steps += (now - self._now) / self._step_s()
        left = self._ends - steps * len(self._running)
        left += sum(job.prompt.answer_tokens for job in self.waiting)
        seconds = left * (self.speed.service_s(0, 1) / self.factor)
        if self._reading is not None:
            seconds += self.next_s - now + self._reading.prompt.answer_tokens * self.speed.service_s(0, 1) / self.factor
        tokens = sum(job.prompt.num_tokens for job in self.waiting)
        return seconds + tokens / self.speed.prefill_tokens_per_s / self.factor

    def will_hold(self, prompt: Prompt) -> int:
        """How many of the prompt's blocks the cache has, or will have once what waits here is read."""
        blocks = prompt.blocks
        held = self.cache.held(blocks)
        while held < len(blocks) and blocks[held] in self._coming:
            held += 1
        return held

    def add(self, job: Job, now: float) -> None:
        self._catch_up(now)
        self.waiting.append(job)
        for block in job.prompt.blocks:
            self._coming[block] = self._coming.get(block, 0) + 1
        self.work += job.prompt.hint.cost
        self._plan()

    def advance(self, now: float) -> Job | None:
        """Take in what happens at `next_s`; the job that ended, if one did."""
        self._catch_up(now)
        ended = None
        if self._reading is not None:
            self._begin_decoding(self._reading, now)
            self._reading = None
        else:
            end, _, ended = heapq.heappop(self._running)
            self._steps = end  # exactly, whatever the sums of floats say
            self._ends -= end
            self.work -= ended.prompt.hint.cost
            self.cache.use(ended.prompt.blocks_after)
        self._plan()
        return ended

    def _begin_decoding(self, job: Job, now: float) -> None:
        for block in job.prompt.blocks:
            self._coming[block] -= 1
            if not self._coming[block]:
                del self._coming[block]
        job.first_token_s = now
        end = self._steps + job.prompt.answer_tokens
        self._ends += end
        heapq.heappush(self._running, (end, job.prompt.number, job))
        self.cache.use(job.prompt.blocks)

    def _catch_up(self, now: float) -> None:
        if self._reading is None and self._running:
            self._steps += (now - self._now) / self._step_s()
        self._now = now

    def _plan(self) -> None:
        """Set `next_s`. Prompts are read before anything decodes on, as long as there is room for them."""
        if self._reading is not None:
            return
        if self.waiting and len(self._running) < self.speed.max_running:
            job = self._reading = self.waiting.popleft()
            # The last token is computed in any case: its logits choose the first of the answer.
            job.cached_tokens = min(self.cache.held(job.prompt.blocks) * BLOCK_TOKENS, job.prompt.num_tokens - 1)
            tokens = job.prompt.num_tokens - job.cached_tokens
            self.next_s = self._now + tokens / (self.speed.prefill_tokens_per_s * self.factor)
        elif self._running:
            self.next_s = self._now + max(0.0, self._running[0][0] - self._steps) * self._step_s()
        else:
            self.next_s = INFINITE

    def _step_s(self) -> float:
        return (self.speed.step_s + self.speed.step_s_per_sequence * len(self._running)) / self.factor
