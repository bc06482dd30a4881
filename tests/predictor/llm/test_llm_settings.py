"""A wrong engine setting stops the start, with its name, its value and its range."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import InvalidInput
from predictor.llm.settings import EngineSettings


def test_defaults_are_accepted_and_bound_the_requests() -> None:
    settings = EngineSettings(max_num_seqs=3, max_num_waiting=4)

    assert settings.max_num_requests == 7


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"block_size": 0}, "block_size is 0; it must be at least 1"),
        ({"kv_cache_dtype": "int4"}, "kv_cache_dtype is 'int4'; it must be one of auto, bfloat16, int8"),
        ({"backend": "torch", "kv_cache_dtype": "int8"}, "kv_cache_dtype is 'int8'; the torch backend keeps"),
        ({"num_threads": -1}, "num_threads is -1; it must be at least 0"),
        ({"heartbeat_timeout_s": float("nan")}, "heartbeat_timeout_s is nan; it must be at least 0.001"),
        ({"speculation": "on"}, "speculation is 'on'; it must be one of auto, off"),
        ({"num_draft_tokens": -1}, "num_draft_tokens is -1; it must be at least 0"),
        ({"kv_cache_share": 0.0}, "kv_cache_share is 0.0; it must be above 0 and at most 1"),
        ({"max_num_seqs": 600}, "max_num_batched_tokens is 512; it must be at least max_num_seqs, 600"),
    ],
)
def test_a_wrong_value_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        EngineSettings(**changes)

    assert caught.value.message.startswith(sentence)
    assert caught.value.field is not None
