"""Schemas that llguidance would take without doing what they say."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidInput
from predictor.llm.guides.schema import MAX_DEPTH, Json, check_inline_schema, check_schema


@pytest.mark.parametrize(
    ("schema", "keyword", "pointer"),
    [
        ({"type": "object", "requird": ["a"]}, "requird", "#"),
        ({"properties": {"a/b": {"uniqueItems": True}}}, "uniqueItems", "#/properties/a~1b"),
        ({"anyOf": [True, {"not": {}}]}, "not", "#/anyOf/1"),
        ({"$defs": {"x": {"items": [{"if": {}}]}}}, "if", "#/$defs/x/items/0"),
        ({"additionalProperties": {"extends": {}}}, "extends", "#/additionalProperties"),
        ({"x-guidance": {"lenient": True}}, "x-guidance", "#"),
    ],
)
def test_a_keyword_that_would_be_ignored_is_refused_by_name_and_place(schema: Json, keyword: str, pointer: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_schema(schema, "json_schema")

    assert caught.value.message == f"json_schema: keyword '{keyword}' at {pointer} is not supported"


def test_a_schema_within_a_grammar_may_say_how_it_is_read() -> None:
    options: Json = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": True}

    check_inline_schema({"x-guidance": options, "requird": ["a"], "properties": {"a": {"not": {}}}}, "grammar")
    check_inline_schema(True, "grammar")


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"x-guidance": {"lenient": False}, "requird": []}, "keyword 'requird' at # is not supported"),
        ({"x-guidance": {"lenient": True, "$ref": "#"}}, "x-guidance takes item_separator"),
        ({"x-guidance": {"lenient": 1}}, "x-guidance takes item_separator"),
        ({"x-guidance": ["lenient"]}, "x-guidance takes item_separator"),
        ({"x-guidance": {"lenient": True}, "items": {"x-guidance": {}}}, "keyword 'x-guidance' at #/items"),
        ({"x-guidance": {"lenient": True}, "$ref": "#"}, "allows no value"),
    ],
)
def test_other_options_and_options_elsewhere_are_refused(schema: Json, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        check_inline_schema(schema, "grammar")


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {"title": "t", "description": "d", "default": {"requird": 1}, "x-order": 3, "$comment": "c"},
        {"properties": {"requird": {"type": "string"}}},
        {"const": {"not": 1}, "enum": [{"if": 2}], "examples": [{"then": 3}]},
    ],
)
def test_annotations_names_and_constants_are_no_keywords(schema: Json) -> None:
    check_schema(schema, "json_schema")


ENDLESS: list[Json] = [
    False,
    {"$ref": "#"},
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
    {"type": "array", "prefixItems": [True, {"$ref": "#"}], "minItems": 2},
    {"anyOf": [{"$ref": "#"}, False]},
    {"allOf": [True, {"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"$ref": "#/$defs/a~1b"}}},
    {"$ref": "#/$defs/a%25", "$defs": {"a%": False}},
]
ENDING: list[Json] = [
    {"type": "object", "properties": {"x": {"$ref": "#"}}},
    {"type": ["object", "null"], "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    {"properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    {"type": "array", "items": {"$ref": "#"}},
    {"type": "array", "prefixItems": [True, {"$ref": "#"}], "minItems": 1},
    {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
    {"$ref": "#anchor"},
    {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {"type": "object", "properties": {"b": {"$ref": "#/$defs/b"}}},
            "b": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
        },
    },
]


@pytest.mark.parametrize("schema", ENDLESS)
def test_a_schema_without_a_finite_value_is_refused(schema: Json) -> None:
    with pytest.raises(InvalidInput, match="allows no value"):
        check_schema(schema, "json_schema")


@pytest.mark.parametrize("schema", ENDING)
def test_a_recursive_schema_with_a_finite_value_passes(schema: Json) -> None:
    check_schema(schema, "json_schema")


@pytest.mark.parametrize("schema", [5, {"items": 5}, {"properties": {"a": "string"}}, {"anyOf": [None]}])
def test_what_is_no_schema_is_refused(schema: Json) -> None:
    with pytest.raises(InvalidInput, match="stands no schema"):
        check_schema(schema, "json_schema")


def test_nesting_is_bounded() -> None:
    schema: Json = True
    for _ in range(MAX_DEPTH):
        schema = {"items": schema}

    check_schema(schema, "json_schema")
    with pytest.raises(InvalidInput, match="more than 100 schemas deep"):
        check_schema({"items": schema}, "json_schema")


def test_a_long_chain_of_references_takes_no_time_to_speak_of() -> None:
    # Resolved one by one from the end, this would be quadratic: minutes.
    chain: dict[str, Json] = {f"d{i}": {"$ref": f"#/$defs/d{i + 1}"} for i in range(20_000)}

    check_schema({"$ref": "#/$defs/d0", "$defs": {**chain, "d20000": True}}, "json_schema")
