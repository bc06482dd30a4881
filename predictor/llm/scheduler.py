"""Decides what each step computes: which sequences, which tokens, which blocks.

There are no phases. A sequence has tokens that are known and tokens that are computed, and a step moves some of them
from the one to the other within a token budget, as in vLLM's V1 scheduler and Sarathi's chunked prefill (Agrawal et
al., 2024). The outcome is plain data. Nothing here knows text, sampling, or torch.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import replace

from mesh.errors import Overloaded
from predictor.llm.block_pool import BlockPool, CacheIdentity, extend_block_hashes
from predictor.llm.sequence import RejectionReason, Sequence, SequenceStatus
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, ChunkResult, StepPlan


class Scheduler:
    """Holds every unfinished sequence, in one of two lists that are sorted by rank.

    What stays true between calls:
      - a running sequence holds exactly the blocks for its known tokens, a waiting one holds none;
      - at most one running sequence, the one admitted last, still has prompt to compute;
      - whoever is admitted gets at least one result before it can be preempted, so preemption cannot thrash.

    `add` must be given only sequences that fit the pool when they run alone (see `EngineLimits`); then the first in
    rank can always be run to its end, and every sequence ends.
    """

    def __init__(self, pool: BlockPool, settings: EngineSettings) -> None:
        self.pool = pool
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.num_prefix_queries = 0  # tokens looked up
        self.num_prefix_hits = 0  # tokens found
        self.num_rejected: Counter[RejectionReason] = Counter()  # requests
        self.num_drafts = 0
        self.num_draft_tokens = 0
        self.num_accepted_by_position: Counter[int] = Counter()  # tokens of drafts, by their place in them
        self._settings = settings
        self._sequences: dict[int, Sequence] = {}
        self._next_step_id = 0

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    @property
    def max_num_seqs(self) -> int:
        return self._settings.max_num_seqs

    @property
    def num_waiting_tokens(self) -> int:
        return sum(sequence.num_uncomputed_tokens for sequence in self.waiting)

    def add(self, sequences: Seq[Sequence]) -> None:
        """Let the outputs of one request wait for their first step.

        Raises Overloaded, and takes none of them, when too many sequences or tokens wait already.
        """
        if len(self._sequences) + len(sequences) > self._settings.max_num_requests:
            self.num_rejected[RejectionReason.REQUESTS] += 1
            raise Overloaded(
                f"{len(self._sequences)} sequences are in the engine and this request adds {len(sequences)}; "
                f"at most {self._settings.max_num_seqs} run and {self._settings.max_num_waiting} wait"
            )
        num_waiting, token_limit = self.num_waiting_tokens, self._settings.max_num_waiting_tokens
        num_added = sum(sequence.num_uncomputed_tokens for sequence in sequences)
        if self.waiting and num_waiting + num_added > token_limit:
            self.num_rejected[RejectionReason.TOKENS] += 1
            raise Overloaded(
                f"{num_waiting} tokens are waiting and this request adds {num_added}; at most {token_limit} may wait"
            )
        for sequence in sequences:
            # Who waits rises: a priority is worth a head start, so the order of two sequences never changes with time.
            head_start_s = sequence.request.priority * self._settings.priority_head_start_s
            sequence.rank = (sequence.arrived_at - head_start_s, sequence.sequence_id)
            self._sequences[sequence.sequence_id] = sequence
            insort(self.waiting, sequence, key=_rank)

    def release(self, sequence: Sequence) -> None:
        """Forget `sequence` and free its blocks. The only way out, for whatever reason; a second call does nothing."""
        if self._sequences.pop(sequence.sequence_id, None) is not None:
            self._leave(sequence)
            sequence.status = SequenceStatus.FINISHED

    def schedule(self, now: float = 0.0) -> StepPlan:
        """Plan one step: a token for every running sequence, then prompts, until the budget is spent.

        Blocks for the planned tokens are held from here on, and those that the step fills can be found: a step writes
        all its keys and values before it reads any, so a prompt shares the blocks of another one in the same step.
        Each plan must be given to `update`, or to `forget` when it failed, before the next. `now` is noted as the time
        at which a sequence leaves the queue.
        """
        budget = self._settings.max_num_batched_tokens
        num_preemptions = self.num_preemptions
        chunks: list[Chunk] = []
        for sequence in sorted(self.running, key=_decodes_first):
            # One of these may be preempted, for another that ranks before it, before its turn comes.
            if sequence.status is SequenceStatus.RUNNING and self._hold_blocks(sequence):
                chunks.append(self._chunk(sequence, budget))
                budget -= len(chunks[-1].token_ids)
        while budget and num_preemptions == self.num_preemptions and (admitted := self._admit_next(now)):
            chunks.append(self._chunk(admitted, budget))
            budget -= len(chunks[-1].token_ids)
        if self._settings.speculation != "off":
            chunks = self._with_drafts(chunks, budget)
        self._next_step_id += 1
        return StepPlan(self._next_step_id - 1, tuple(chunks))

    def update(self, plan: StepPlan, results: Seq[ChunkResult]) -> list[tuple[Sequence, ChunkResult]]:
        """Take over what a step computed, and return the sequences that got a result.

        Of a draft and of what was chosen behind it only that is taken over, and returned, which a step without a draft
        would have chosen. A sequence that was released while the step ran is passed over.
        """
        advanced: list[tuple[Sequence, ChunkResult]] = []
        for chunk, result in zip(plan.chunks, results, strict=True):
            sequence = self._sequences.get(chunk.sequence_id)
            if sequence is None:
                continue
            num_good = chunk.num_accepted(result.token_ids) + 1
            if num_good < len(result.token_ids):
                result = replace(result, token_ids=result.token_ids[:num_good], logprobs=result.logprobs[:num_good])
            sequence.num_computed_tokens = chunk.start_position + len(chunk.token_ids) - len(chunk.draws[num_good:])
            sequence.num_scored += len(result.scores)
            sequence.token_ids += result.token_ids
            if chunk.draft:
                self._settle_draft(sequence, chunk, num_good - 1, len(plan.chunks))
            if result.token_ids or result.scores:
                advanced.append((sequence, result))
        return advanced

    def forget(self, plan: StepPlan) -> None:
        """After a step failed: nothing that it was to write may be found. Its sequences are the caller's to release."""
        for chunk in plan.chunks:
            first, last = (n // self.pool.block_size for n in (chunk.start_position, chunk.context_len))
            for block_id in chunk.block_table[first:last]:
                self.pool.unregister(block_id)

    def _chunk(self, sequence: Sequence, budget: int) -> Chunk:
        start = sequence.num_computed_tokens
        end = min(len(sequence.token_ids), start + budget)
        self._register_blocks(sequence, start, end)
        return Chunk(
            sequence_id=sequence.sequence_id,
            token_ids=tuple(sequence.token_ids[start:end]),
            start_position=start,
            block_table=tuple(sequence.block_table[: self.pool.num_blocks_for(end)]),
            draws=sequence.draws() if end == len(sequence.token_ids) else (),
            score_targets=sequence.score_targets(start, end),
            num_score_logprobs=sequence.num_score_logprobs,
        )

    def _with_drafts(self, chunks: list[Chunk], budget: int) -> list[Chunk]:
        """Add drafts to the chunks of a small step, to each in its share of what is left of the step.

        Only when all of them get their next token by this step: a newcomer may count on what the others take meanwhile
        (`_num_reserved_blocks`). Drafts are put into free blocks after everybody else has theirs, so nobody waits or is
        preempted for a draft.
        """
        room = min(budget, self._settings.max_num_tokens_with_drafts - len(chunks))
        if room < 1 or any(len(chunk.token_ids) > 1 or not chunk.draws for chunk in chunks):
            return chunks
        extended: list[Chunk] = []
        for num_left, chunk in zip(range(len(chunks), 0, -1), chunks, strict=True):
            extended.append(self._with_draft(chunk, room // num_left))
            room -= len(extended[-1].draft)
        return extended

    def _with_draft(self, chunk: Chunk, max_tokens: int) -> Chunk:
        sequence, pool = self._sequences[chunk.sequence_id], self.pool
        num_known = len(sequence.token_ids)
        num_fitting = (len(sequence.block_table) + pool.num_free_blocks) * pool.block_size - num_known
        # One token comes without a draft, so the last one of an output need not be drafted.
        limit = min(max_tokens, self._settings.num_draft_tokens, sequence.max_new_tokens - 1, num_fitting)
        # A draft would have to be held to the guide before it is run; and its tokens have no score targets.
        if limit < 1 or sequence.allowed is not None or chunk.score_targets:
            return chunk
        draft = sequence.drafter.draft(sequence.token_ids, limit)
        if not draft:
            return chunk
        blocks = pool.allocate(pool.num_blocks_for(num_known + len(draft)) - len(sequence.block_table))
        assert blocks is not None
        sequence.block_table += blocks
        return replace(
            chunk,
            token_ids=chunk.token_ids + draft,
            block_table=tuple(sequence.block_table),
            draws=sequence.draws(draft),
        )

    def _settle_draft(self, sequence: Sequence, chunk: Chunk, num_accepted: int, num_sequences: int) -> None:
        """Have the blocks found that good tokens filled, and give those back that only bad ones needed.

        What bad tokens wrote into a block that stays is overwritten before it is read, as nothing reads beyond the
        tokens that are known.
        """
        self._register_blocks(sequence, chunk.start_position, sequence.num_computed_tokens)
        num_blocks = self.pool.num_blocks_for(len(sequence.token_ids))
        self.pool.release(sequence.block_table[num_blocks:])
        del sequence.block_table[num_blocks:]
        sequence.drafter.learn(len(chunk.draft), num_accepted, num_sequences)
        self.num_drafts += 1
        self.num_draft_tokens += len(chunk.draft)
        self.num_accepted_by_position.update(range(num_accepted))

    def _hold_blocks(self, sequence: Sequence) -> bool:
        """Hold the block that the newest token needs, preempting the last in rank while none is free.

        Returns False when that was `sequence` itself. Sequences are asked in order of rank, so a victim never stands
        in the plan already.
        """
        num_missing = self.pool.num_blocks_for(len(sequence.token_ids)) - len(sequence.block_table)
        while (new_blocks := self.pool.allocate(num_missing)) is None:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return False
        sequence.block_table += new_blocks
        return True

    def _preempt(self, sequence: Sequence) -> None:
        """Give up the blocks of `sequence`; it waits at its old rank and is computed anew, as far as no cache helps."""
        self._leave(sequence)
        sequence.status = SequenceStatus.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        insort(self.waiting, sequence, key=_rank)

    def _leave(self, sequence: Sequence) -> None:
        (self.running if sequence.status is SequenceStatus.RUNNING else self.waiting).remove(sequence)
        self.pool.release(sequence.block_table)
        sequence.block_table = []
        sequence.num_computed_tokens = 0

    def _admit_next(self, now: float) -> Sequence | None:
        """Move the first waiting sequence to the running ones, with blocks for all its known tokens.

        Returns None and changes nothing when there is none or it does not fit yet. Nobody overtakes it: what waits
        behind a large request would otherwise starve it.
        """
        if not self.waiting or len(self.running) >= self._settings.max_num_seqs:
            return None
        sequence = self.waiting[0]
        reused = self._find_prefix(sequence)
        num_new = self.pool.num_blocks_for(len(sequence.token_ids)) - len(reused)
        num_tokens_left = len(sequence.token_ids) - len(reused) * self.pool.block_size
        if self.pool.num_free_without(reused) < num_new + self._num_reserved_blocks(num_tokens_left):
            return None
        block_table = self.pool.allocate(num_new, reused)
        assert block_table is not None
        del self.waiting[0]
        sequence.block_table = block_table
        sequence.num_computed_tokens = len(reused) * self.pool.block_size
        sequence.status = SequenceStatus.RUNNING
        if sequence.scheduled_at is None:
            sequence.scheduled_at = now
            self._count_prefix(sequence)
        insort(self.running, sequence, key=_rank)
        return sequence

    def _num_reserved_blocks(self, num_tokens: int) -> int:
        """Blocks to leave free when a sequence with `num_tokens` to compute joins the running ones.

        So many as the others can come to need until the newcomer has its first result: then nobody is preempted for
        its sake, nor it for theirs.
        """
        num_steps = -(-num_tokens // (self._settings.max_num_batched_tokens - len(self.running)))
        return sum(self.pool.num_blocks_for(min(num_steps, s.max_new_tokens)) for s in self.running)

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        if not self.pool.enable_prefix_caching:
            return []
        self._extend_hashes(sequence, len(sequence.token_ids))
        num_reusable = sequence.first_needed_position // self.pool.block_size
        return self.pool.find_prefix(sequence.block_hashes[:num_reusable])

    def _count_prefix(self, sequence: Sequence) -> None:
        """Count one lookup per request: its own blocks, found again after a preemption, are no hits."""
        sequence.num_cached_tokens = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
        self.num_prefix_queries += sequence.num_prompt_tokens
        self.num_prefix_hits += sequence.num_cached_tokens

    def _register_blocks(self, sequence: Sequence, start: int, end: int) -> None:
        """Make the blocks findable that become full when positions start … end-1 are computed."""
        if not self.pool.enable_prefix_caching:
            return
        self._extend_hashes(sequence, end)
        for index in range(start // self.pool.block_size, end // self.pool.block_size):
            self.pool.register(sequence.block_table[index], sequence.block_hashes[index])

    def _extend_hashes(self, sequence: Sequence, num_tokens: int) -> None:
        request = sequence.request
        if len(sequence.block_hashes) < num_tokens // self.pool.block_size:
            identity = CacheIdentity(request.adapter, request.cache_salt)
            tokens = sequence.token_ids[:num_tokens]
            extend_block_hashes(sequence.block_hashes, tokens, self.pool.block_size, identity)


def _rank(sequence: Sequence) -> tuple[float, int]:
    return sequence.rank


def _decodes_first(sequence: Sequence) -> tuple[bool, tuple[float, int]]:
    """Sort key: sequences that need one token come before one that still has prompt, so that no budget is too small."""
    return (sequence.num_uncomputed_tokens > 1, sequence.rank)
