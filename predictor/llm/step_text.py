"""A step of the engine as people read it: who computed which positions in which blocks, and what came of it.

    step 2: 20 tokens, 3.1 ms
      a    decode  40           blocks [0-1] 2       ->  901 ' lazy'
      b    prefill 32..50 of 56  blocks [0-1] 3-4     32 from the cache
      pool █████·  5 held, 0 cached, 1 blank; 2 running, 1 waiting: c

Blocks in brackets stand in more than one of the step's block tables. "3 of 7 drafted": three tokens of a draft were
right, so that four came. Knows plans and looks (`inspection`), no engine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby, pairwise

from predictor.llm.inspection import BlockPoolState, Inspection, SequenceState
from predictor.llm.step import Chunk, ChunkResult, Draw, StepPlan

POOL_BAR_CHARS = 32
_MAX_WAITING_NAMED = 4

TokenText = Callable[[int], str]


class StepText:
    """`names`: what a sequence is called, by its id. `token_text`: what a token looks like."""

    def __init__(self, names: Mapping[int, str], token_text: TokenText) -> None:
        self._names = names
        self._token_text = token_text
        self._running: dict[int, SequenceState] = {}
        self._waiting: dict[int, SequenceState] = {}

    def start(self, look: Inspection) -> None:
        """The engine before the first step, or whenever a request was added."""
        self._running = {sequence.sequence_id: sequence for sequence in look.running}
        self._waiting = {sequence.sequence_id: sequence for sequence in look.waiting}

    def lines(self, plan: StepPlan, results: Sequence[ChunkResult], after: Inspection) -> Iterator[str]:
        """The step, and the engine after it. Steps must be given one after the other."""
        yield f"step {plan.step_id}: {counted(plan.num_tokens, 'token')}, {after.last_step.duration_s * 1000:.1f} ms"
        holders = Counter(block_id for chunk in plan.chunks for block_id in chunk.block_table)
        shared = {block_id for block_id, count in holders.items() if count > 1}
        rows = [self._row(chunk, result, shared) for chunk, result in zip(plan.chunks, results, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield f"  {'  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))}".rstrip()
        yield from self._preempted(after)
        yield f"  {self._state(after)}"
        self.start(after)

    def _row(self, chunk: Chunk, result: ChunkResult, shared: Collection[int]) -> tuple[str, str, str, str]:
        notes = [*self._notes(chunk), *_scores(result)]
        if result.token_ids:
            num_accepted = chunk.num_accepted(result.token_ids)
            if chunk.draft:
                notes.append(f"{num_accepted} of {len(chunk.draft)} drafted")
            good = result.token_ids[: num_accepted + 1]
            tokens = "  ".join(f"{token_id} {self._token_text(token_id)!r}" for token_id in good)
            notes.append(f"->  {tokens}{_choice(chunk.draws[num_accepted])}")
        blocks = f"blocks {describe_blocks(chunk.block_table, shared)}"
        return self._name(chunk.sequence_id), self._work(chunk), blocks, "  ".join(notes)

    def _work(self, chunk: Chunk) -> str:
        running = self._running.get(chunk.sequence_id)
        before = running or self._waiting.get(chunk.sequence_id)
        known = chunk.context_len if before is None else before.num_prompt_tokens + before.num_output_tokens
        if running is not None and running.num_output_tokens and len(chunk.token_ids) == len(chunk.draft) + 1:
            return f"decode  {chunk.start_position}"
        of = "" if known == chunk.context_len else f" of {known}"
        return f"prefill {chunk.start_position}..{chunk.context_len - 1}{of}"

    def _notes(self, chunk: Chunk) -> Iterator[str]:
        """What is special about a chunk that is the first since its sequence waited."""
        waited = self._waiting.get(chunk.sequence_id)
        if waited is None:
            return
        if chunk.start_position:
            yield f"{chunk.start_position} from the cache"
        if waited.num_preemptions:
            yield "again"

    def _preempted(self, after: Inspection) -> Iterator[str]:
        for sequence in after.waiting:
            before = self._running.get(sequence.sequence_id)
            if before is not None:
                num_tokens = sequence.num_prompt_tokens + sequence.num_output_tokens
                yield (
                    f"  {self._name(sequence.sequence_id)} is pushed back: "
                    f"it gives up {counted(len(before.block_table), 'block')} "
                    f"and keeps its {counted(num_tokens, 'token')}"
                )

    def _state(self, after: Inspection) -> str:
        pool = after.block_pool
        line = (
            f"pool {pool_bar(pool)}  {pool.num_held} held, {pool.num_evictable} cached, {pool.num_blank} blank; "
            f"{len(after.running)} running, {after.num_waiting} waiting"
        )
        if not after.waiting:
            return line
        names = [self._name(sequence.sequence_id) for sequence in after.waiting[:_MAX_WAITING_NAMED]]
        more = "" if after.num_waiting <= len(names) else ", …"
        return f"{line}: {', '.join(names)}{more}"

    def _name(self, sequence_id: int) -> str:
        return self._names.get(sequence_id, f"#{sequence_id}")


def describe_blocks(block_table: Sequence[int], shared: Collection[int] = ()) -> str:
    """A block table with runs of ids joined, shared ones in brackets: "[0-3] 7"."""
    parts = []
    for is_shared, group in groupby(block_table, key=lambda block_id: block_id in shared):
        runs = " ".join(_runs(list(group)))
        parts.append(f"[{runs}]" if is_shared else runs)
    return " ".join(parts)


def pool_bar(pool: BlockPoolState, width: int = POOL_BAR_CHARS) -> str:
    """The blocks in `width` characters at most: █ held, ▒ cached, · blank. What is not nothing is at least one."""
    width = min(width, pool.num_blocks)
    num_held = _cells(pool.num_held, pool.num_blocks, width)
    num_cached = min(_cells(pool.num_evictable, pool.num_blocks, width), width - num_held)
    return "█" * num_held + "▒" * num_cached + "·" * (width - num_held - num_cached)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cells(number: int, total: int, width: int) -> int:
    return max(1, number * width // total) if number else 0


def _runs(block_ids: Sequence[int]) -> Iterator[str]:
    runs: list[list[int]] = [[block_ids[0]]]
    for before, block_id in pairwise(block_ids):
        if block_id == before + 1:
            runs[-1].append(block_id)
        else:
            runs.append([block_id])
    return (f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _scores(result: ChunkResult) -> Iterator[str]:
    if result.scores:
        yield f"{counted(len(result.scores), 'token')} of the prompt scored"


def _choice(draw: Draw) -> str:
    """What the last token was chosen from, where that is not everything."""
    notes = []
    if draw.allowed is not None:
        notes.append(f"of {sum(octet.bit_count() for octet in draw.allowed)} that the guide allows")
    if draw.banned:
        notes.append(f"{len(draw.banned)} banned")
    if draw.params.has_penalties:
        notes.append(f"penalties over {counted(len(draw.output_token_ids), 'token')}")
    return f"  ({', '.join(notes)})" if notes else ""
