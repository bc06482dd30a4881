"""Calls in tags: as many as the choice lets, anywhere in the text."""

from __future__ import annotations

from collections.abc import Callable

from transformer.tools.declarations import Tool, ToolUse
from transformer.tools.hermes import Hermes

TOOLS = tuple(Tool(name, {"type": "object", "additionalProperties": False}, False, {}) for name in ("f", "g"))
F = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
G = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'


def test_calls_stand_anywhere_in_text_that_need_not_call(accepts: Callable[[str, str], bool]) -> None:
    grammar = Hermes().grammar(ToolUse(TOOLS))

    for output in (f"{F}\n{G}", f"Let me see.\n{F} and\n\n{G}{F} done", "a <tool_cal> b", "</tool_call>"):
        assert accepts(grammar, output)
    for output in (f"{F}<tool_call>", "<tool_call> is a tag", f"{F}\n{G.replace('g', 'h')}"):
        assert not accepts(grammar, output)


def test_an_answer_that_must_call_is_calls_and_nothing_else(accepts: Callable[[str, str], bool]) -> None:
    grammar = Hermes().grammar(ToolUse(TOOLS, must_call=True))

    for output in (F, f"{G}\n{F}\n{G}"):
        assert accepts(grammar, output)
    for output in (f" {F}", f"{F}{G}", f"{F}\n", f"{F}\nbye"):
        assert not accepts(grammar, output)


def test_the_template_must_show_tools_and_write_json_in_tags(templates: dict[str, str]) -> None:
    template = templates["hermes"]

    assert Hermes().is_spoken_by(template)
    assert not Hermes().is_spoken_by(template.replace("tools", "functions"))
    assert not Hermes().is_spoken_by(template.replace("tool_call>", "call>"))
    assert not Hermes().is_spoken_by(template.replace('"arguments"', '"args"'))
