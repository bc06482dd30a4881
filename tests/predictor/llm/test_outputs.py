"""Outputs join in order, and stats say how full the cache is."""

from __future__ import annotations

import pickle

from mesh.errors import Overloaded
from predictor.llm.outputs import EngineStats, FailedOutput, GenerationOutput, Timings, Usage
from predictor.llm.sequence import FinishReason


def test_two_outputs_join_to_one_with_the_end_of_the_later() -> None:
    first = GenerationOutput("r", (1, 2), "ab", Usage(3, 0, 2))
    last = GenerationOutput(
        "r", (3,), "c", Usage(3, 0, 3), finish_reason=FinishReason.STOP, matched_stop="x", timings=Timings(0, 1, 2)
    )

    joined = first.followed_by(last)

    assert joined == GenerationOutput(
        "r", (1, 2, 3), "abc", Usage(3, 0, 3), 0, (), (), FinishReason.STOP, "x", Timings(0, 1, 2)
    )


def test_usage_of_the_cache_is_the_share_of_held_blocks() -> None:
    assert EngineStats(num_blocks=8, num_free_blocks=6).kv_cache_usage == 0.25
    assert EngineStats().kv_cache_usage == 0.0


def test_an_error_travels_between_processes_whole() -> None:
    output = FailedOutput("r", Overloaded("full", field="prompt", retry_after_s=3.0))

    error = pickle.loads(pickle.dumps(output)).error  # noqa: S301  our own bytes

    assert isinstance(error, Overloaded)
    assert (error.message, error.field, error.retry_after_s) == ("full", "prompt", 3.0)
