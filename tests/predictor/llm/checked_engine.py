"""A small engine that checks, around every step, everything that must hold; and what each output has to be."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from mesh.errors import InvalidInput, Overloaded
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import GenerationRequest, ScoreRequest, Sequence, SequenceStatus, output_seed
from predictor.llm.step import ChunkResult, SamplingParams, StepPlan
from tests.predictor.llm.engines import SmallEngine, generation
from tests.predictor.llm.hash_model import StrideGuides, continuation, scores


@dataclass(frozen=True)
class Variant:
    """What else a generation asks for. guide: as `StrideGuides` reads it."""

    n: int = 1
    penalized: bool = False
    prompt_logprobs: bool = False
    guide: str | None = None


PLAIN = Variant()


def expected_output(request: GenerationRequest, index: int) -> list[int]:
    """All tokens of output `index`, the slow and obvious way."""
    sampling = replace(request.sampling, seed=output_seed(request.sampling.seed, index))
    guide = None if request.guide is None else StrideGuides().start(request.guide)
    return continuation(request.prompt_token_ids, request.max_tokens, sampling, guide=guide)


@dataclass
class Run:
    """A sequence between its admission and its end or preemption."""

    num_preemptions: int
    num_results_at_start: int
    num_results: int = 0
    computed_until: int = 0


class CheckedEngine:
    """Requests are named r0, r1, …; `aborted` are those that were stopped while they ran."""

    def __init__(
        self,
        num_blocks: int,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        caching: bool = True,
        num_draft_tokens: int = 7,
        max_num_tokens_with_drafts: int = 16,
    ) -> None:
        self.engine = SmallEngine(
            num_blocks,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_waiting=12,
            max_num_waiting_tokens=150,
            enable_prefix_caching=caching,
            num_draft_tokens=num_draft_tokens,
            max_num_tokens_with_drafts=max_num_tokens_with_drafts,
        )
        self.requests: dict[str, GenerationRequest | ScoreRequest] = {}
        self.unchecked: set[str] = set()
        self.aborted: set[str] = set()
        self._sequences: dict[int, Sequence] = {}
        self._max_new_tokens: dict[int, int] = {}  # before the step
        self._runs: dict[int, Run] = {}
        self.num_accepted = 0  # tokens of drafts
        self.num_rejected = 0

    def generate(
        self,
        prompt: tuple[int, ...],
        max_tokens: int,
        seed: int,
        num_sent: int,
        salt: str,
        priority: int,
        variant: Variant = PLAIN,
    ) -> None:
        """Ask for a generation of which the first `num_sent` tokens are there already, if it is of one output."""
        sampling = SamplingParams(
            temperature=float(seed > 0), seed=seed, presence_penalty=1.0 if variant.penalized else 0.0
        )
        request = generation(
            f"r{len(self.requests)}",
            prompt,
            max_tokens,
            sampling=sampling,
            guide=None if variant.guide is None else GuideSpec(GuideKind.REGEX, variant.guide),
            n=variant.n,
            num_prompt_logprobs=0 if variant.prompt_logprobs else -1,
            priority=priority,
            cache_salt=salt,
        )
        sent = tuple(expected_output(request, 0)[: min(num_sent, max_tokens)]) if variant.n == 1 else ()
        self._add(replace(request, continue_from=sent))

    def score(self, prefix: tuple[int, ...], targets: tuple[int, ...], salt: str, priority: int) -> None:
        self._add(ScoreRequest(f"r{len(self.requests)}", prefix, targets, priority, salt))

    def abort(self, request_id: str) -> None:
        if self.engine.engine.abort(request_id):
            self.aborted.add(request_id)
        self.check_blocks()

    def step(self) -> None:
        has_work = self.engine.engine.has_work
        self._remember_sequences()
        self.engine.step()
        self._check_step(self.engine.backend.plan, self.engine.backend.results, has_work)

    def step_with_an_abort_in_the_middle(self, which: int) -> None:
        """Abort the `which`th running request between plan and results, as a pipelined engine will see it."""
        scheduler, has_work = self.engine.scheduler, self.engine.engine.has_work
        self._remember_sequences()
        plan = scheduler.schedule()
        results = self.engine.backend.execute(plan)
        if scheduler.running:
            request_id = scheduler.running[which % len(scheduler.running)].request.request_id
            self.engine.engine.abort(request_id)
            self.aborted.add(request_id)
        for sequence, result in scheduler.update(plan, results):
            output = self.engine.engine._report(sequence, result)
            if output is not None:
                self.engine.keep(output)
        self._check_step(plan, results, has_work)

    def step_that_fails(self) -> None:
        """Have a step write nothing of what it planned, and tell the engine so, as the worker does."""
        engine = self.engine.engine
        engine._plan = self.engine.scheduler.schedule()
        for output in engine.fail_step():
            self.aborted.add(output.request_id)
            self.engine.keep(output)
        self.check_blocks()

    def finish(self) -> None:
        """Run what is left; everything must come to its end and every block back."""
        while self.engine.engine.has_work:
            self.step()
        assert not self.unchecked - self.aborted, "a request got no end"
        assert self.engine.is_empty

    def check_blocks(self) -> None:
        """Every block is held by whom the tables say, and by nobody else."""
        pool, scheduler = self.engine.pool, self.engine.scheduler
        pool.check_invariants()
        holders = Counter(block_id for s in scheduler.running for block_id in s.block_table)
        assert {b: n for b, n in enumerate(pool._ref_counts) if n} == holders
        for sequence in scheduler.running:
            assert sequence.status is SequenceStatus.RUNNING
            assert len(set(sequence.block_table)) == len(sequence.block_table)
            num_known_blocks = pool.num_blocks_for(len(sequence.token_ids))
            assert num_known_blocks - 1 <= len(sequence.block_table) <= num_known_blocks
        assert all(not s.block_table and s.status is SequenceStatus.WAITING for s in scheduler.waiting)
        for sequences in (scheduler.waiting, scheduler.running):
            assert [s.rank for s in sequences] == sorted(s.rank for s in sequences)

    def _add(self, request: GenerationRequest | ScoreRequest) -> None:
        try:
            self.engine.add(request)
        except (Overloaded, InvalidInput):
            return
        self.requests[request.request_id] = request
        self.unchecked.add(request.request_id)
        self._check_outputs()

    def _remember_sequences(self) -> None:
        scheduler = self.engine.scheduler
        self._sequences = {s.sequence_id: s for s in [*scheduler.waiting, *scheduler.running]}
        self._max_new_tokens = {sequence_id: s.max_new_tokens for sequence_id, s in self._sequences.items()}

    def _check_step(self, plan: StepPlan, results: list[ChunkResult], has_work: bool) -> None:
        settings, block_size = self.engine.settings, self.engine.pool.block_size
        assert bool(plan.chunks) == has_work, "a step with work to do must do some"
        assert plan.num_tokens <= settings.max_num_batched_tokens
        assert len(plan.chunks) <= settings.max_num_seqs
        assert len({chunk.sequence_id for chunk in plan.chunks}) == len(plan.chunks)
        written = [
            (chunk.block_table[position // block_size], position % block_size)
            for chunk in plan.chunks
            for position in range(chunk.start_position, chunk.context_len)
        ]
        assert len(written) == len(set(written)), "two sequences write one slot"
        for chunk, result in zip(plan.chunks, results, strict=True):
            num_accepted = chunk.num_accepted(result.token_ids)
            num_rejected = len(chunk.draft) - num_accepted
            self.num_accepted += num_accepted
            self.num_rejected += num_rejected
            self._check_progress(chunk.sequence_id, chunk.start_position, chunk.context_len - num_rejected)
        self._check_drafts(plan)
        assert sum(s.num_uncomputed_tokens > 1 for s in self.engine.scheduler.running) <= 1
        self.check_blocks()
        self._check_outputs()

    def _check_drafts(self, plan: StepPlan) -> None:
        """Drafts cost nobody a token or a block, and no block that holds a wrong token can be found."""
        drafting = [chunk for chunk in plan.chunks if chunk.draft]
        if drafting:
            assert plan.num_tokens <= self.engine.settings.max_num_tokens_with_drafts
            assert all(len(chunk.token_ids) == len(chunk.draws) for chunk in plan.chunks), "a newcomer does not wait"
        for chunk in drafting:
            assert len(chunk.draft) <= self.engine.settings.num_draft_tokens
            assert len(chunk.draft) < self._max_new_tokens[chunk.sequence_id]
        block_size = self.engine.pool.block_size
        for sequence in self.engine.scheduler.running:
            unfilled = sequence.block_table[sequence.num_computed_tokens // block_size :]
            assert all(self.engine.pool._hash_of[block_id] is None for block_id in unfilled)

    def _check_progress(self, sequence_id: int, start: int, end: int) -> None:
        """Each token is computed once, unless the sequence was preempted; and that never before it had a result."""
        sequence, run = self._sequences[sequence_id], self._runs.get(sequence_id)
        if run is None or sequence.num_preemptions > run.num_preemptions:
            if run is not None:
                assert sequence.num_preemptions == run.num_preemptions + 1
                assert run.num_results > run.num_results_at_start, "preempted before it had a result"
            num_results = 0 if run is None else run.num_results
            run = self._runs[sequence_id] = Run(sequence.num_preemptions, num_results)
        else:
            assert start == run.computed_until
        assert end > start
        run.computed_until = end
        run.num_results = sequence.num_generated_tokens + sequence.num_scored

    def _check_generation(self, request: GenerationRequest, outputs: list[GenerationOutput]) -> None:
        for index, output in enumerate(outputs):
            assert [*request.continue_from, *output.token_ids] == expected_output(request, index)
        # Tokens that end an output at once leave nothing to compute, so nothing to say of the prompt.
        if request.num_prompt_logprobs >= 0 and (outputs[0].token_ids or not request.continue_from):
            prompt = request.prompt_token_ids
            known = outputs[0].prompt_logprobs
            assert [entry.token_id for entry in known] == list(prompt[1:])
            assert [entry.logprob for entry in known] == scores(prompt[:1], prompt[1:])

    def _check_outputs(self) -> None:
        for request_id in list(self.unchecked):
            request = self.requests[request_id]
            if isinstance(request, GenerationRequest):
                outputs = [self.engine.outputs.get((request_id, index)) for index in range(request.n)]
                if any(output is None or output.finish_reason is None for output in outputs):
                    continue
                self._check_generation(request, [output for output in outputs if output is not None])
            else:
                score = self.engine.scores.get(request_id)
                if score is None:
                    continue
                assert list(score.logprobs) == scores(request.prefix_token_ids, request.target_token_ids)
            self.unchecked.remove(request_id)
