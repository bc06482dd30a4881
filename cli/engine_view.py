"""An engine as a person looks at it: its pool of blocks as a bar, and each output with a bar of its own blocks.

Knows the messages of mesh.v1.EngineDebug and a console, no channel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mesh.v1.engine_debug_pb2 import BlockPoolState, DescribeEngineResponse, SequenceState, StepState

POOL_BAR_CHARS = 48
TABLE_BAR_CHARS = 24
_STATE_COLOURS = {"ready": "green", "loading": "yellow"}
_MAX_IDS_CHARS = 28


def engine_view(engine: DescribeEngineResponse) -> RenderableType:
    """What is running first, then what waits."""
    process = f", process {engine.pid}" if engine.pid else ""
    colour = _STATE_COLOURS.get(engine.state, "red")
    head = Text.from_markup(
        f"[bold]{escape(engine.model_name)}[/], version {escape(engine.model_version)}: "
        f"[{colour}]{escape(engine.state)}[/]{process}"
    )
    if not engine.HasField("block_pool"):
        return head
    lines: list[RenderableType] = [head, "", *_pool(engine.block_pool), _step(engine.last_step), ""]
    lines.append(f"{len(engine.running)} running, {engine.num_waiting} waiting")
    if engine.running or engine.waiting:
        lines += ["", _sequences(engine)]
    num_hidden = engine.num_waiting - len(engine.waiting)
    if num_hidden:
        lines.append(f"… and {num_hidden} more that wait")
    return Group(*lines)


def _pool(pool: BlockPoolState) -> Iterator[RenderableType]:
    numbers = (pool.num_held, pool.num_evictable, pool.num_blank)
    bar = Text("blocks  ")
    for cells, character, style in zip(_cells(numbers), "█▒·", ("cyan", "blue", "dim"), strict=True):
        bar.append(character * cells, style)
    bar.append("  {} held, {} cached, {} blank".format(*numbers))
    yield bar
    yield (
        f"        {pool.num_blocks} blocks of {pool.block_size} tokens: room for "
        f"{pool.num_blocks * pool.block_size} tokens in {_size(pool.size_bytes)}"
    )


def _cells(numbers: Sequence[int]) -> list[int]:
    """How many characters of the bar each number gets: at least one if it is not 0, and the largest what is left."""
    total = max(1, sum(numbers))
    cells = [max(1, number * POOL_BAR_CHARS // total) if number else 0 for number in numbers]
    cells[numbers.index(max(numbers))] += POOL_BAR_CHARS - sum(cells)
    return cells


def _step(step: StepState) -> str:
    if step.step_id < 0:
        return "step    none yet"
    num_tokens = sum(chunk.num_tokens for chunk in step.chunks)
    num_drafted = sum(chunk.num_draft_tokens for chunk in step.chunks)
    num_decodes = sum(chunk.num_tokens == chunk.num_draft_tokens + 1 and chunk.sampled for chunk in step.chunks)
    num_prefilled = num_tokens - num_drafted - num_decodes
    parts = [f"{num_decodes} of decode"] if num_decodes else []
    parts += [f"{num_drafted} of drafts"] if num_drafted else []
    parts += [f"{num_prefilled} of prefill"] if num_prefilled else []
    what = f" ({', '.join(parts)})" if parts else ""
    return f"step    {step.step_id}: {num_tokens} tokens{what} in {step.duration_s * 1000:.1f} ms"


def _sequences(engine: DescribeEngineResponse) -> Table:
    table = Table(
        *("", "request", "age", "prompt", "cached", "output", "pushed back", "blocks"),
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for name in ("age", "prompt", "cached", "output", "pushed back"):
        table.columns[[column.header for column in table.columns].index(name)].justify = "right"
    holders = Counter(block_id for sequence in engine.running for block_id in sequence.block_table)
    shared = {block_id for block_id, count in holders.items() if count > 1}
    longest = max((len(sequence.block_table) for sequence in engine.running), default=1)
    for state, sequences in (("running", engine.running), ("waiting", engine.waiting)):
        for sequence in sequences:
            bar = _blocks(sequence, engine.block_pool.block_size, shared, longest)
            table.add_row(state, _name(sequence), _age(sequence.age_s), *_counts(sequence), bar)
    return table


def _name(sequence: SequenceState) -> str:
    index = f" [{sequence.index}]" if sequence.index else ""
    priority = f" (priority {sequence.priority})" if sequence.priority else ""
    return escape(f"{sequence.request_id}{index}{priority}")


def _counts(sequence: SequenceState) -> Iterator[str]:
    computed = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
    is_partial = sequence.block_table and computed < sequence.num_prompt_tokens
    yield f"{computed}/{sequence.num_prompt_tokens}" if is_partial else str(sequence.num_prompt_tokens)
    yield str(sequence.num_cached_tokens)
    yield str(sequence.num_output_tokens)
    yield str(sequence.num_preemptions) if sequence.num_preemptions else ""


def _blocks(sequence: SequenceState, block_size: int, shared: Collection[int], longest: int) -> Text:
    """A character for each block, or several where the longest table is too long: █ own, ▓ shared, ░ not computed."""
    table = sequence.block_table
    per_cell = -(-longest // TABLE_BAR_CHARS)
    bar = Text()
    for first in range(0, len(table), per_cell):
        if first * block_size >= sequence.num_computed_tokens:
            bar.append("░", "dim")
        elif table[first] in shared:
            bar.append("▓", "magenta")
        else:
            bar.append("█", "cyan")
    if table:
        bar.append(" " * (-(-longest // per_cell) - len(bar.plain)))
        bar.append(f"  {len(table)}: {_ids(table)}", "dim")
    return bar


def _ids(block_table: Sequence[int]) -> str:
    """Ids with runs joined, as long as they fit: "0-3 7 9-12 …"."""
    runs: list[list[int]] = []
    for block_id in block_table:
        if runs and block_id == runs[-1][-1] + 1:
            runs[-1][1:] = [block_id]
        else:
            runs.append([block_id])
    text = " ".join("-".join(map(str, run)) for run in runs)
    return text if len(text) <= _MAX_IDS_CHARS else f"{text[:_MAX_IDS_CHARS].rsplit(' ', 1)[0]} …"


def _age(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
