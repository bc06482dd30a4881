"""The label that allows NaN in JSON."""

from __future__ import annotations

import pytest

from gateway.rest.bodies import parse_object
from gateway.rest.non_finite import allows_non_finite
from mesh.errors import InvalidInput
from mesh.v1.registry_pb2 import Deployment


@pytest.mark.parametrize(
    ("labels", "allows"), [({}, False), ({"json-non-finite": "allow"}, True), ({"json-non-finite": "no"}, False)]
)
def test_label_says_allow(labels: dict[str, str], allows: bool) -> None:
    assert allows_non_finite(Deployment(labels=labels)) is allows


@pytest.mark.parametrize(
    "text",
    [
        b"[NaN]",
        b'{"a": nan}',
        b'{"a": NaN',
        b'{"a": [NaN, 1e999]}',
        b'{"a": NaN, "b": 18446744073709551616}',
        b'{"a": NaN, "b": "\\ud800"}',
        b'{"a": NaN, "b": "\xff"}',
        b'{"a": NaN, "b": ' + b"[" * 100_000,
        b'{"a": NaN, "b": ' + b"9" * 5000 + b"}",
    ],
)
def test_all_else_stays_as_strict_as_it_is(text: bytes) -> None:
    with pytest.raises(InvalidInput):
        parse_object(text, non_finite=True)


def test_literals_are_numbers() -> None:
    value = parse_object(b'{"a": [NaN, Infinity, -Infinity, 1]}', non_finite=True)

    assert str(value) == "{'a': [nan, inf, -inf, 1]}"
