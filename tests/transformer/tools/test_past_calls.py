"""Calls of earlier turns: checked, and with arguments as templates want them."""

from __future__ import annotations

import json

import pytest

from mesh.errors import InvalidInput
from transformer.tools.past_calls import MAX_CALLS, read_past_calls


def call(arguments: object) -> dict[str, object]:
    return {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": arguments}}


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"b": "é", "a": [1]}', {"b": "é", "a": [1]}),
        ({"a": 1}, {"a": 1}),
        ('{"a": ', '{"a": '),
        ("", ""),
        ("[1]", "[1]"),
        ('{"a": "\\ud800"}', '{"a": "\\ud800"}'),
    ],
)
def test_arguments_are_an_object_where_their_text_is_one(arguments: object, read: object) -> None:
    assert read_past_calls(json.dumps([call(arguments)]), "f") == (call(read),)


def test_no_text_is_no_calls() -> None:
    assert read_past_calls("", "f") == ()


def test_a_call_without_arguments_has_none() -> None:
    assert read_past_calls('[{"function": {"name": "f"}}]', "f") == ({"function": {"name": "f", "arguments": {}}},)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "is not JSON"),
        ("{}", "must be an array of tool calls"),
        ("[1]", r"tool_calls_json\[0\] must be an object with a function"),
        ('[{"function": "f"}]', r"tool_calls_json\[0\] must be an object with a function"),
        ('[{"function": {"name": 5}}]', r"tool_calls_json\[0\].function.name must be a text"),
        ('[{"function": {"name": ""}}]', r"tool_calls_json\[0\].function.name must be a text"),
        (json.dumps([call([1])]), r"tool_calls_json\[0\].function.arguments must be a JSON text or an object"),
        (json.dumps([call({})] * (MAX_CALLS + 1)), "has 129 calls; at most 128"),
        (json.dumps([call("x" * (1 << 20))]), "bytes; at most 1048576"),
    ],
)
def test_wrong_calls_are_named(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        read_past_calls(text, "messages[3].tool_calls_json")

    assert caught.value.field == "messages[3].tool_calls_json"
