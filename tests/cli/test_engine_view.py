"""An engine's view as text: whole, on a hand-made description."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cli.engine_view import engine_view
from mesh.v1 import engine_debug_pb2 as debug


def shown(engine: debug.DescribeEngineResponse) -> list[str]:
    console = Console(file=io.StringIO(), width=200)
    console.print(engine_view(engine), highlight=False)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def crowded() -> debug.DescribeEngineResponse:
    state = debug.SequenceState
    return debug.DescribeEngineResponse(
        model_name="chat",
        model_version="2",
        state="ready",
        pid=41,
        running=[
            state(
                request_id="a#0", age_s=3.25, num_prompt_tokens=40, num_output_tokens=13, num_computed_tokens=52,
                block_table=[0, 1, 2, 9],
            ),
            state(
                request_id="b#1", index=1, priority=5, age_s=75, num_prompt_tokens=96, num_computed_tokens=48,
                num_cached_tokens=32, num_preemptions=2, block_table=[0, 1, 4, 5, 6, 7],
            ),
        ],
        waiting=[state(request_id="c#2", age_s=0.5, num_prompt_tokens=7)],
        num_waiting=3,
        block_pool=debug.BlockPoolState(
            block_size=16, num_blocks=100, num_held=8, num_evictable=30, num_blank=62, size_bytes=12_500_000
        ),
        last_step=debug.StepState(
            step_id=812,
            duration_s=0.0031,
            chunks=[
                debug.ChunkState(sequence_id=0, start_position=51, num_tokens=1, sampled=True),
                debug.ChunkState(sequence_id=1, start_position=32, num_tokens=16),
            ],
        ),
    )  # fmt: skip


def test_a_busy_engine() -> None:
    assert shown(crowded()) == [
        "chat, version 2: ready, process 41",
        "",
        f"blocks  {'█' * 3}{'▒' * 14}{'·' * 31}  8 held, 30 cached, 62 blank",
        "        100 blocks of 16 tokens: room for 1600 tokens in 12.5 MB",
        "step    812: 17 tokens (1 of decode, 16 of prefill) in 3.1 ms",
        "",
        "2 running, 3 waiting",
        "",
        "         request                      age  prompt  cached  output  pushed back  blocks",
        "running  a#0                        3.2 s      40       0      13               ▓▓██    4: 0-2 9",
        "running  b#1 [1] (priority 5)  1 min 15 s   48/96      32       0            2  ▓▓█░░░  6: 0-1 4-7",
        "waiting  c#2                        0.5 s       7       0       0",
        "… and 2 more that wait",
    ]


def test_drafts_are_no_prefill() -> None:
    engine = crowded()
    engine.last_step.chunks[0].num_tokens, engine.last_step.chunks[0].num_draft_tokens = 4, 3

    assert "step    812: 20 tokens (1 of decode, 3 of drafts, 16 of prefill) in 3.1 ms" in shown(engine)


@pytest.mark.parametrize("state", ["dead", "loading", "stopped"])
def test_an_engine_that_is_not_ready_is_one_line(state: str) -> None:
    engine = debug.DescribeEngineResponse(model_name="chat", model_version="2", state=state, pid=7)

    assert shown(engine) == [f"chat, version 2: {state}, process 7"]


def test_an_engine_that_has_done_nothing_yet() -> None:
    engine = debug.DescribeEngineResponse(
        model_name="chat",
        model_version="2",
        state="ready",
        pid=7,
        block_pool=debug.BlockPoolState(block_size=16, num_blocks=4, num_blank=4, size_bytes=3_000_000_000),
        last_step=debug.StepState(step_id=-1),
    )

    assert shown(engine)[2:] == [
        f"blocks  {'·' * 48}  0 held, 0 cached, 4 blank",
        "        4 blocks of 16 tokens: room for 64 tokens in 3.00 GB",
        "step    none yet",
        "",
        "0 running, 0 waiting",
    ]


@pytest.mark.parametrize(("held", "cached", "blank"), [(1, 1, 9998), (9998, 1, 1), (0, 9999, 1), (5000, 0, 5000)])
def test_the_bar_is_as_wide_as_ever_and_shows_what_is_there(held: int, cached: int, blank: int) -> None:
    engine = crowded()
    engine.block_pool.MergeFrom(
        debug.BlockPoolState(num_blocks=10_000, num_held=held, num_evictable=cached, num_blank=blank)
    )
    engine.block_pool.num_held, engine.block_pool.num_evictable = held, cached

    bar = shown(engine)[2].removeprefix("blocks  ").partition("  ")[0]

    assert len(bar) == 48
    assert [bool(number) for number in (held, cached)] == ["█" in bar, "▒" in bar]


def test_long_tables_share_a_character_and_long_ids_are_cut() -> None:
    engine = crowded()
    engine.running[0].block_table[:] = range(0, 200, 2)
    engine.running[0].num_computed_tokens = 1600

    (row,) = (line for line in shown(engine) if "a#0" in line)

    assert "█" * 18 in row
    assert row.endswith("100: 0 2 4 6 8 10 12 14 16 18 20 …")


def test_a_name_is_never_markup() -> None:
    engine = crowded()
    engine.running[0].request_id = "[red]x#0"

    assert any("[red]x#0" in line for line in shown(engine))
