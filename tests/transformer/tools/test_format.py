"""What every tool format keeps to: its grammar allows what its parser reads, and no other calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from mesh.plugins import load
from transformer.tools import FORMATS
from transformer.tools.declarations import read_tool_use
from transformer.tools.format import ToolFormat

TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "get_weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/unit"}},
                    "required": ["city"],
                    "additionalProperties": False,
                    "$defs": {"unit": {"enum": ["°C", "°F"]}},
                },
            },
        },
        {"type": "function", "function": {"name": "clock"}},
        # A keyword that no grammar expresses, and braces and quotes that a careless writer would trip over.
        {
            "type": "function",
            "function": {
                "name": "odd-1",
                "description": "} start: /x/",
                "parameters": {
                    "not": {"const": 1},
                    "properties": {'"}\n': {"const": '%json {"'}},
                    "required": ['"}\n'],
                },
            },
        },
    ]
)
ARGUMENTS = {
    "get_weather": '{"city": "Köln \\"}", "unit": "°C"}',
    "clock": "{}",
    "odd-1": '{"\\"}\\n": "%json {\\""}',
}


def hermes(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


def llama3(name: str, arguments: str) -> str:
    return f'{{"name": "{name}", "parameters": {arguments}}}'


WRITERS: dict[str, Callable[[str, str], str]] = {"hermes": hermes, "llama3": llama3}
FORMAT = pytest.mark.parametrize("name", FORMATS)


def tool_format(name: str) -> ToolFormat:
    loaded: ToolFormat = load(FORMATS, name, "tool format")()
    return loaded


def grammar(name: str, choice: str) -> str:
    use = read_tool_use(TOOLS, choice)
    assert use is not None
    return tool_format(name).grammar(use)


@FORMAT
@pytest.mark.parametrize("tool", ARGUMENTS)
@pytest.mark.parametrize("choice", ["auto", "required", "function:"])
def test_grammar_and_parser_agree_on_a_call(
    accepts: Callable[[str, str], bool], name: str, tool: str, choice: str
) -> None:
    output = WRITERS[name](tool, ARGUMENTS[tool])
    parser = tool_format(name).parser()

    assert accepts(grammar(name, f"function:{tool}" if choice == "function:" else choice), output)
    parsed = parser.push(output)

    assert (parsed.text, parser.finish().text, parser.num_complete) == ("", "", 1)
    assert [(part.name, part.arguments) for part in parsed.parts] == [(tool, ""), ("", ARGUMENTS[tool])]


@FORMAT
@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("unknown", "{}"),
        ("clock", '{"a": 1}'),
        ("get_weather", "{}"),
        ("get_weather", '{"city": "Köln", "unit": "K"}'),
        ("get_weather", '{"city":"Köln"}'),
        ("get_weather", '{"city": "Köln"'),
    ],
)
def test_no_other_call_can_be_written(
    accepts: Callable[[str, str], bool], name: str, choice: str, tool: str, arguments: str
) -> None:
    assert not accepts(grammar(name, choice), WRITERS[name](tool, arguments))


@FORMAT
def test_text_needs_a_choice(accepts: Callable[[str, str], bool], name: str) -> None:
    for text in ("", "Hello.", "a <b>\n{} ", "Grüße"):
        assert accepts(grammar(name, "auto"), text)
        assert not accepts(grammar(name, "required"), text)
        assert not accepts(grammar(name, "function:clock"), text)


@FORMAT
def test_a_named_function_is_called_once_and_no_other(accepts: Callable[[str, str], bool], name: str) -> None:
    clock, weather = WRITERS[name]("clock", "{}"), WRITERS[name]("get_weather", ARGUMENTS["get_weather"])

    assert accepts(grammar(name, "function:clock"), clock)
    assert not accepts(grammar(name, "function:clock"), weather)
    assert not accepts(grammar(name, "function:clock"), f"{clock}\n{clock}")


@FORMAT
def test_a_strict_schema_is_kept_to_the_letter_or_refused(compile_grammar: Callable[[str], Any], name: str) -> None:
    use = read_tool_use(TOOLS.replace('"name": "odd-1"', '"strict": true, "name": "odd-1"'), "auto")
    assert use is not None

    matcher = compile_grammar(tool_format(name).grammar(use))

    assert 'Unimplemented keys: ["not"]' in matcher.get_error()
