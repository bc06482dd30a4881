"""The parts of a step's text; `test_trace` shows whole ones."""

from __future__ import annotations

import pytest

from predictor.llm.inspection import BlockPoolState
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan
from predictor.llm.step_text import StepText, counted, describe_blocks, pool_bar
from tests.predictor.llm.engines import SmallEngine, generation


@pytest.mark.parametrize(
    ("block_table", "shared", "text"),
    [
        ((0,), (), "0"),
        ((0, 1, 2), (), "0-2"),
        ((5, 3, 4, 9), (), "5 3-4 9"),
        ((0, 1, 2, 3), (0, 1), "[0-1] 2-3"),
        ((4, 0, 1, 7), (4, 7), "[4] 0-1 [7]"),
    ],
)
def test_runs_of_blocks_are_joined_and_shared_ones_bracketed(
    block_table: tuple[int, ...], shared: tuple[int, ...], text: str
) -> None:
    assert describe_blocks(block_table, shared) == text


@pytest.mark.parametrize(
    ("num_held", "num_evictable", "num_blocks", "bar"),
    [
        (0, 0, 4, "····"),
        (4, 0, 4, "████"),
        (1, 2, 4, "█▒▒·"),
        (1, 1, 1000, "█▒······"),  # what is not nothing is seen
        (999, 1, 1000, "███████▒"),
        (1000, 0, 1000, "████████"),
        (998, 1, 1000, "███████▒"),
    ],
)
def test_the_bar_of_a_pool(num_held: int, num_evictable: int, num_blocks: int, bar: str) -> None:
    pool = BlockPoolState(4, num_blocks, num_held, num_evictable, num_blocks - num_held - num_evictable)

    assert pool_bar(pool, 8) == bar


def test_of_a_draft_the_good_tokens_are_shown() -> None:
    engine = SmallEngine()
    engine.add(generation(prompt=(1, 2, 3)))
    engine.step()
    text = StepText({0: "#a"}, lambda token_id: chr(token_id))
    text.start(engine.engine.inspect())
    draft = Chunk(0, (1, *b"bcd"), 3, (0, 1), draws=(Draw(SamplingParams(0), banned=(9,)),) * 4)

    _, row, _ = text.lines(StepPlan(1, (draft,)), [ChunkResult(0, tuple(b"bcxy"))], engine.engine.inspect())

    assert row == "  #a  decode  3  blocks 0-1  2 of 3 drafted  ->  98 'b'  99 'c'  120 'x'  (1 banned)"


def test_one_is_no_plural() -> None:
    assert (counted(1, "token"), counted(2, "token")) == ("1 token", "2 tokens")
