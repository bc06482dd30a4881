"""The text of call rules; whether they mean what they should is test_format's."""

from __future__ import annotations

import json

from transformer.tools.declarations import Tool
from transformer.tools.grammar import call_rules, literal


def test_each_function_has_a_head_and_a_schema_of_its_own() -> None:
    tools = [Tool("f", {"type": "object"}, is_strict=True, declaration={}), Tool("g", {"a": "é"}, False, {})]

    head, *rules = call_rules(tools, "arguments").splitlines()

    assert head == (
        r'call: "{\"name\": \"f\", \"arguments\": " arguments_0 "}"'
        r' | "{\"name\": \"g\", \"arguments\": " arguments_1 "}"'
    )
    schemas = [json.loads(rule.partition(" %json ")[2]) for rule in rules]
    assert [schema.pop("x-guidance")["lenient"] for schema in schemas] == [False, True]
    assert schemas == [{"type": "object"}, {"a": "é"}]


def test_a_schema_cannot_set_the_options_of_its_grammar() -> None:
    tool = Tool("f", {"x-guidance": {"lenient": True, "whitespace_flexible": True}}, True, {})

    rule = call_rules([tool], "a").splitlines()[1]

    options = json.loads(rule.partition(" %json ")[2])["x-guidance"]
    assert options == {
        "whitespace_flexible": False,
        "item_separator": ", ",
        "key_separator": ": ",
        "lenient": False,
    }


def test_literals_are_one_line() -> None:
    assert literal('"\n\\') == r'"\"\n\\"'
