"""The engine: requests in, tokens out, one step at a time.

`step` is the whole loop: plan, compute, take over the results, report. What a step computes is the scheduler's
business, how it is computed the backend's, what it means to the caller the output processor's. The engine knows no
processes, no threads and no torch: `worker` gives it a process of its own.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import count

from mesh.errors import Conflict, Internal, MeshError
from predictor.llm.backend import Backend
from predictor.llm.guide import GuideMaker
from predictor.llm.inspection import Inspection, inspect
from predictor.llm.limits import EngineLimits
from predictor.llm.output_processor import NoGuides, OutputProcessor, Vocabulary
from predictor.llm.outputs import EngineOutput, EngineStats, FailedOutput, GenerationOutput, ScoreOutput
from predictor.llm.scheduler import Scheduler
from predictor.llm.sequence import FinishReason, GenerationRequest, Request, Sequence, SequenceStatus
from predictor.llm.step import ChunkResult, StepPlan


class Engine:
    """Not thread-safe: one thread calls everything.

    The KV cache of `backend` must have been allocated with the blocks of the scheduler's pool. `guides` makes those
    that requests ask for. `now` gives seconds on the clock that `arrived_at` is measured on.
    """

    def __init__(
        self,
        backend: Backend,
        scheduler: Scheduler,
        vocabulary: Vocabulary,
        limits: EngineLimits,
        guides: GuideMaker | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler
        self.limits = limits
        self._backend = backend
        self._eos_ids = vocabulary.eos_ids
        self._outputs = OutputProcessor(vocabulary, NoGuides() if guides is None else guides)
        self._now = now
        self._sequence_ids = count()
        self._sequences: dict[str, list[Sequence]] = {}  # those that run, by request
        self._plan = StepPlan(-1, ())
        self._num_prompt_tokens = 0
        self._num_cached_prompt_tokens = 0
        self._num_generation_tokens = 0
        self._finished: Counter[FinishReason] = Counter()
        self._last_step_s = 0.0

    @property
    def has_work(self) -> bool:
        return self.scheduler.has_work

    def add(self, request: Request, arrived_at: float | None = None) -> GenerationOutput | None:
        """Take a request in; it gets its tokens from the next steps on.

        Returns its only output when it needs no step at all: a continued generation whose tokens are complete.
        Raises InvalidInput, PromptTooLong, Conflict (the id is in use) or Overloaded; then nothing has changed.
        """
        self.limits.check(request)
        if request.request_id in self._sequences:
            raise Conflict(f"a request with id {request.request_id!r} is running", field="request_id")
        sequences = self._fork(request, self._now() if arrived_at is None else arrived_at)
        self.scheduler.add(sequences)
        try:
            complete = [output for sequence in sequences if (output := self._outputs.start(sequence)) is not None]
        except MeshError:
            self._forget(sequences)
            raise
        if complete:
            self._forget(sequences)
            return complete[0]
        self._sequences[request.request_id] = sequences
        return None

    def abort(self, request_id: str) -> bool:
        """Stop all outputs of a request and free their blocks; nothing more is reported. False when it is not known."""
        sequences = list(self._sequences.get(request_id, []))
        for sequence in sequences:
            self._release(sequence, FinishReason.ABORT)
        return bool(sequences)

    def step(self) -> list[EngineOutput]:
        """Advance every sequence that fits into one step, and report what came of it."""
        started_at = self._now()
        self._plan = self.scheduler.schedule(started_at)
        results = self._backend.execute(self._plan)
        advanced = self.scheduler.update(self._plan, results)
        self._last_step_s = self._now() - started_at
        return [output for sequence, result in advanced if (output := self._report(sequence, result)) is not None]

    def fail_step(self) -> list[EngineOutput]:
        """After `step` raised: drop every request of that step. What it wrote to the cache is never found again."""
        failed_ids = {chunk.sequence_id for chunk in self._plan.chunks}
        failed = [
            request_id
            for request_id, sequences in self._sequences.items()
            if any(sequence.sequence_id in failed_ids for sequence in sequences)
        ]
        self.scheduler.forget(self._plan)
        return [
            self._fail(request_id, Internal(f"the step that computed request {request_id} failed"))
            for request_id in failed
        ]

    def stats(self) -> EngineStats:
        scheduler, pool = self.scheduler, self.scheduler.pool
        return EngineStats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_waiting_tokens=scheduler.num_waiting_tokens,
            num_blocks=pool.num_blocks,
            num_free_blocks=pool.num_free_blocks,
            num_steps=self._plan.step_id + 1,
            num_preemptions=scheduler.num_preemptions,
            num_prefix_queries=scheduler.num_prefix_queries,
            num_prefix_hits=scheduler.num_prefix_hits,
            num_prompt_tokens=self._num_prompt_tokens,
            num_cached_prompt_tokens=self._num_cached_prompt_tokens,
            num_generation_tokens=self._num_generation_tokens,
            num_drafts=scheduler.num_drafts,
            num_draft_tokens=scheduler.num_draft_tokens,
            num_last_step_tokens=self._plan.num_tokens,
            last_step_s=self._last_step_s,
            max_num_seqs=scheduler.max_num_seqs,
            num_accepted_by_position=dict(scheduler.num_accepted_by_position),
            num_finished=dict(self._finished),
            num_rejected=dict(scheduler.num_rejected),
        )

    def inspect(self) -> Inspection:
        return inspect(self.scheduler, self._plan, self._last_step_s, self._now())

    def _report(self, sequence: Sequence, result: ChunkResult) -> EngineOutput | None:
        if sequence.status is SequenceStatus.FINISHED:
            return None  # another output of its request failed in this step
        if sequence.first_result_at is None:
            self._num_prompt_tokens += sequence.num_prompt_tokens
            self._num_cached_prompt_tokens += sequence.num_cached_tokens
        try:
            output = self._outputs.advance(sequence, result, self._now())
        except MeshError as error:
            return self._fail(sequence.request.request_id, error)
        if isinstance(output, GenerationOutput):
            self._num_generation_tokens += len(output.token_ids)
            if output.finish_reason is not None:
                self._release(sequence, output.finish_reason)
        elif isinstance(output, ScoreOutput):
            self._release(sequence, FinishReason.STOP)
        return output

    def _fork(self, request: Request, arrived_at: float) -> list[Sequence]:
        """One sequence for each output. They share the blocks of the prompt, as any two equal prompts do."""
        if not isinstance(request, GenerationRequest):
            return [Sequence(next(self._sequence_ids), request, arrived_at)]
        end_ids = {*request.stop_token_ids, *(() if request.ignore_eos else self._eos_ids)}
        return [
            Sequence(next(self._sequence_ids), request, arrived_at, index=index, end_ids=end_ids)
            for index in range(request.sample_index, request.sample_index + request.n)
        ]

    def _fail(self, request_id: str, error: MeshError) -> FailedOutput:
        """End a request, all of its outputs, with an error."""
        for sequence in list(self._sequences[request_id]):
            self._release(sequence, FinishReason.ERROR)
        return FailedOutput(request_id, error)

    def _release(self, sequence: Sequence, reason: FinishReason) -> None:
        self._forget([sequence])
        request_id = sequence.request.request_id
        self._sequences[request_id].remove(sequence)
        if not self._sequences[request_id]:
            del self._sequences[request_id]
        self._finished[reason] += 1

    def _forget(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            self.scheduler.release(sequence)
            self._outputs.forget(sequence)
