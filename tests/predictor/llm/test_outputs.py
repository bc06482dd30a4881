"""Outputs join in order, and stats say how full the cache is."""

from __future__ import annotations

import pickle
from dataclasses import fields

from mesh.errors import Overloaded
from predictor.llm.outputs import EngineStats, FailedOutput, GenerationOutput, Timings, Usage
from predictor.llm.sequence import FinishReason, RejectionReason


def test_two_outputs_join_to_one_with_the_end_of_the_later() -> None:
    first = GenerationOutput("r", (1, 2), "ab", Usage(3, 0, 2))
    last = GenerationOutput(
        "r", (3,), "c", Usage(3, 0, 3), finish_reason=FinishReason.STOP, matched_stop="x", timings=Timings(0, 1, 2)
    )

    joined = first.followed_by(last)

    assert joined == GenerationOutput(
        "r", (1, 2, 3), "abc", Usage(3, 0, 3), 0, (), (), FinishReason.STOP, "x", Timings(0, 1, 2)
    )


def test_joined_outputs_keep_the_first_token_and_every_gap() -> None:
    first = GenerationOutput("r", (1,), "a", Usage(3, 0, 1), first_token_s=0.5)
    second = GenerationOutput("r", (2,), "b", Usage(3, 0, 2), gaps_s=(0.25,))
    third = GenerationOutput("r", (3,), "c", Usage(3, 0, 3), gaps_s=(0.125,))

    joined = first.followed_by(second).followed_by(third)

    assert (joined.first_token_s, joined.gaps_s) == (0.5, (0.25, 0.125))
    assert second.followed_by(third).first_token_s is None


def test_the_phases_of_a_request_add_up() -> None:
    timings = Timings(queue_s=0.5, first_token_s=1.5, total_s=4.5)

    assert (timings.prefill_s, timings.decode_s, timings.inference_s) == (1.0, 3.0, 4.0)


def test_counters_go_on_from_an_earlier_engine_and_gauges_do_not() -> None:
    earlier = EngineStats(
        num_running=3, num_steps=10, num_generation_tokens=7, num_finished={FinishReason.STOP: 2}, num_deaths=1
    )
    latest = EngineStats(
        num_running=1,
        num_steps=4,
        num_finished={FinishReason.STOP: 1, FinishReason.ABORT: 1},
        num_rejected={RejectionReason.TOKENS: 5},
    )

    assert latest.after(earlier) == EngineStats(
        num_running=1,
        num_steps=14,
        num_generation_tokens=7,
        num_finished={FinishReason.STOP: 3, FinishReason.ABORT: 1},
        num_rejected={RejectionReason.TOKENS: 5},
        num_deaths=1,
    )


def test_every_number_is_a_counter_or_is_known_to_be_none() -> None:
    """A counter that `after` forgets would go back when an engine is replaced."""
    gauges = {"num_running", "num_waiting", "num_waiting_tokens", "num_blocks", "num_free_blocks", "max_num_seqs"}
    last = {"num_last_step_tokens", "last_step_s"}
    maps = {"num_finished", "num_rejected", "num_accepted_by_position"}
    ones = EngineStats(**{field.name: 1 for field in fields(EngineStats) if field.name not in maps})

    doubled = ones.after(ones)

    grown = {field.name for field in fields(EngineStats) if getattr(doubled, field.name) == 2}
    assert {field.name for field in fields(EngineStats)} - grown == {*gauges, *last, *maps}


def test_usage_of_the_cache_is_the_share_of_held_blocks() -> None:
    assert EngineStats(num_blocks=8, num_free_blocks=6).kv_cache_usage == 0.25
    assert EngineStats().kv_cache_usage == 0.0


def test_an_error_travels_between_processes_whole() -> None:
    output = FailedOutput("r", Overloaded("full", field="prompt", retry_after_s=3.0))

    error = pickle.loads(pickle.dumps(output)).error  # noqa: S301  our own bytes

    assert isinstance(error, Overloaded)
    assert (error.message, error.field, error.retry_after_s) == ("full", "prompt", 3.0)
