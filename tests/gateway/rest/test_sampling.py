"""Sampling parameters of the generate extension and of V1."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.sampling import sampling_from_json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


def test_known_parameters_arrive() -> None:
    given = {"temperature": 0, "top_k": 4, "top_p": 0.5, "min_p": 0.1, "seed": 2**64 - 1, "max_tokens": 8, "stop": "x"}

    assert sampling_from_json(given, "instances[0]") == lm.SamplingParameters(**(given | {"stop": ["x"]}))
    assert sampling_from_json({}, "x") == lm.SamplingParameters()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"temprature": 1}, "no parameter 'temprature'; known are: ignore_eos, max_tokens"),
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
