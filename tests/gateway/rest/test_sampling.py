"""Sampling parameters of the generate extension and of V1."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.sampling import sampling_from_json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


def test_known_parameters_arrive() -> None:
    given: dict[str, Any] = {
        "temperature": 0, "top_k": 4, "top_p": 0.5, "min_p": 0.1, "seed": 2**64 - 1, "max_tokens": 8, "min_tokens": 2,
        "stop": "x", "stop_token_ids": [3], "ignore_eos": True, "repetition_penalty": 1.1, "frequency_penalty": 0.5,
        "presence_penalty": -0.5, "logit_bias": {"5": -100}, "bad_words": ["no"], "regex": "[a-z]+",
    }  # fmt: skip
    same = {name: value for name, value in given.items() if name not in ("stop", "logit_bias", "regex")}

    assert sampling_from_json(given, "instances[0]") == lm.SamplingParameters(
        **same, stop=["x"], logit_bias={5: -100}, guide=lm.Guide(regex="[a-z]+")
    )
    assert sampling_from_json({}, "x") == lm.SamplingParameters()


@pytest.mark.parametrize(
    ("values", "guide"),
    [
        ({"json_schema": {"type": "object"}}, lm.Guide(json_schema='{"type":"object"}')),
        ({"json_schema": '{"type": "string"}'}, lm.Guide(json_schema='{"type": "string"}')),
        ({"json_object": True}, lm.Guide(json_object=True)),
        ({"grammar": 'start: "a"'}, lm.Guide(grammar='start: "a"')),
        ({"choices": ["yes", "no"]}, lm.Guide(choices=lm.Choices(texts=["yes", "no"]))),
    ],
)
def test_guides_have_the_names_of_the_contract(values: dict[str, Any], guide: lm.Guide) -> None:
    assert sampling_from_json(values, "x").guide == guide


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temprature": 1}, "no parameter 'temprature'; known are: bad_words, choices, frequency_penalty"),
        ({"n": 2}, "no parameter 'n'"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens is 9; max_tokens is only 8"),
        ({"regex": "a", "json_object": True}, "give one of them"),
        ({"choices": []}, "'choices' must be a list"),
        ({"logit_bias": {"x": 1}}, "'logit_bias' is wrong: its keys"),
        ({"temperature": -1}, "'temperature' is wrong"),
        ({"max_tokens": "8"}, "'max_tokens' is wrong"),
        ({"seed": -1}, "'seed' is wrong"),
        ({"stop": [1]}, "'stop' is wrong"),
    ],
)
def test_wrong_parameter_is_named(values: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        sampling_from_json(values, "instances[0]")

    assert says in raised.value.message
