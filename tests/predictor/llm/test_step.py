"""A step is plain data: it can be counted, printed, recorded, and compared after a round trip."""

from __future__ import annotations

import pickle

from predictor.llm.step import Chunk, Draw, SamplingParams, StepPlan

PLAN = StepPlan(
    step_id=3,
    chunks=(
        Chunk(
            0,
            (5, 6, 7),
            start_position=16,
            block_table=(4, 9),
            draws=(Draw(SamplingParams(temperature=0), allowed=b"\x05"),),
        ),
        Chunk(1, (8,), start_position=0, block_table=(2,), score_targets=(-1,)),
    ),
)


def test_plan_counts_its_tokens() -> None:
    assert PLAN.num_tokens == 4
    assert StepPlan(0, ()).num_tokens == 0


def test_chunk_knows_how_much_is_cached_after_it() -> None:
    assert [chunk.context_len for chunk in PLAN.chunks] == [19, 1]


def test_a_draft_is_accepted_up_to_the_first_token_that_was_not_chosen() -> None:
    draw = PLAN.chunks[0].draws[0]
    verifying = Chunk(0, (5, 6, 7, 8), 16, (4, 9), draws=(draw,) * 3)

    assert verifying.draft == (7, 8)
    assert [verifying.num_accepted(chosen) for chosen in [(7, 8, 1), (7, 1, 8), (1, 8, 7)]] == [2, 1, 0]
    assert (PLAN.chunks[0].draft, PLAN.chunks[0].num_accepted((7,))) == ((), 0)
    assert (PLAN.chunks[1].draft, PLAN.chunks[1].num_accepted(())) == ((), 0)


def test_recorded_plan_is_the_same_plan() -> None:
    assert pickle.loads(pickle.dumps(PLAN)) == PLAN  # noqa: S301 -- our own bytes


def test_printed_plan_can_be_read_back() -> None:
    names = {"StepPlan": StepPlan, "Chunk": Chunk, "Draw": Draw, "SamplingParams": SamplingParams}

    assert eval(repr(PLAN), names) == PLAN  # noqa: S307 -- our own text
