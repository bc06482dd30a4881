"""The ranges that all fronts share."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.sampling_fields import SamplingFields
from gateway.rest.validation import validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


def sampling(max_tokens: int | None = None, **fields: Any) -> lm.SamplingParameters:
    return validated(SamplingFields, fields).to_sampling(max_tokens)


def test_what_is_not_set_stays_unset() -> None:
    assert sampling() == lm.SamplingParameters()
    assert sampling(logit_bias={}, bad_words=[], stop=[]) == lm.SamplingParameters()


def test_bounds_are_part_of_the_ranges() -> None:
    given: dict[str, Any] = {"frequency_penalty": -2, "presence_penalty": 2, "repetition_penalty": 100, "top_p": 1}

    assert sampling(**given) == lm.SamplingParameters(**given)
    assert dict(sampling(logit_bias={"0": -100, "2147483647": 100.0}).logit_bias) == {0: -100, 2147483647: 100}
    assert sampling(8, min_tokens=8).min_tokens == 8


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"logit_bias": {str(index): 1 for index in range(1025)}}, "it has 1025 entries; at most 1024 are taken"),
        ({"logit_bias": {"2147483648": 1}}, "its keys must be token ids, 0 to 2147483647"),
        ({"logit_bias": {"-1": 1}}, "its keys must be token ids"),
        ({"logit_bias": {"5.0": 1}}, "its keys must be token ids"),
        ({"logit_bias": {"٥": 1}}, "its keys must be token ids"),
        ({"logit_bias": {"9" * 5000: 1}}, "its keys must be token ids"),
        ({"logit_bias": {"7": 100.5}}, "that of token 7 must be a number from -100 to 100"),
        ({"logit_bias": {"7": True}}, "that of token 7 must be a number"),
        ({"logit_bias": {"7": None}}, "that of token 7 must be a number"),
        ({"logit_bias": "7"}, "valid dictionary"),
        ({"bad_words": ["x"] * 65}, "at most 64 items"),
        ({"bad_words": "x"}, "valid list"),
        ({"repetition_penalty": 100.1}, "less than or equal to 100"),
        ({"presence_penalty": -2.1}, "greater than or equal to -2"),
        ({"min_tokens": -1}, "greater than or equal to 0"),
        ({"ignore_eos": 1}, "valid boolean"),
    ],
)
def test_wrong_value_is_named_with_its_limit(fields: dict[str, Any], says: str) -> None:
    (name,) = fields

    with pytest.raises(InvalidInput, match=says) as raised:
        sampling(**fields)

    assert raised.value.field == name


def test_least_length_is_held_against_the_longest() -> None:
    with pytest.raises(InvalidInput, match="min_tokens is 9; max_tokens is only 8"):
        sampling(8, min_tokens=9)
