"""Guides out of JSON: their kinds, and how large they may be."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.rest.guides import MAX_SOURCE_BYTES, Given, bounded_json, only_guide
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

DEEP: Any = orjson.loads("[" * 600 + "]" * 600)


def guide(kind: str, value: Any) -> lm.Guide | None:
    found = only_guide([Given("field", kind, value)])
    return found[1] if found else None


def test_every_kind_is_read() -> None:
    assert guide("json_schema", {"b": 1, "a": [True]}) == lm.Guide(json_schema='{"b":1,"a":[true]}')
    assert guide("json_schema", '{"a": 1}') == lm.Guide(json_schema='{"a": 1}')
    assert guide("regex", "a+") == lm.Guide(regex="a+")
    assert guide("grammar", 'start: "a"') == lm.Guide(grammar='start: "a"')
    assert guide("choices", ["a", "b"]) == lm.Guide(choices=lm.Choices(texts=["a", "b"]))
    assert guide("json_object", True) == lm.Guide(json_object=True)


def test_kinds_are_those_of_the_contract() -> None:
    for kind in lm.Guide.DESCRIPTOR.fields_by_name:
        assert guide(kind, None) is None
        with pytest.raises(InvalidInput, match="'field' must be"):
            guide(kind, 7)


def test_nothing_is_asked_for_by_null_and_false() -> None:
    assert guide("json_object", False) is None
    assert only_guide([]) is None


def test_two_guides_are_refused_and_the_second_is_blamed() -> None:
    with pytest.raises(InvalidInput, match="'a' and 'b' both say") as raised:
        only_guide([Given("a", "regex", "x"), Given("b", "json_object", True)])

    assert raised.value.field == "b"


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        ("regex", "x" * (MAX_SOURCE_BYTES + 1), "has 262145 bytes; the limit is 262144"),
        ("grammar", "é" * MAX_SOURCE_BYTES, "has 524288 bytes"),
        ("json_schema", {"enum": ["x" * MAX_SOURCE_BYTES]}, "the limit is 262144"),
        ("json_schema", {"enum": DEEP}, "nested too deep"),
        ("json_schema", "", "must be a JSON schema"),
        ("json_schema", [], "must be a JSON schema"),
        ("regex", "", "must be a regular expression"),
        ("choices", [], "must be a list of 1 to 1024 strings"),
        ("choices", ["a"] * 1025, "must be a list of 1 to 1024 strings"),
        ("choices", ["a", ""], "must be a list of 1 to 1024 strings"),
        ("choices", ["a", 7], "must be a list of 1 to 1024 strings"),
        ("choices", ["x" * 1000] * 1000, "has 1000000 bytes"),
        ("json_object", "yes", "must be true or false"),
    ],
)
def test_wrong_guide_is_named(kind: str, value: Any, says: str) -> None:
    with pytest.raises(InvalidInput, match=says) as raised:
        guide(kind, value)

    assert raised.value.field == "field"


def test_json_is_written_as_it_was_meant() -> None:
    assert bounded_json([{"é": None}], "x", 100) == '[{"é":null}]'
