"""Bare JSON: one call, or text that does not begin like one."""

from __future__ import annotations

from collections.abc import Callable

from transformer.tools.declarations import Tool, ToolUse
from transformer.tools.llama3 import Llama3

TOOLS = (Tool("f", {"type": "object", "additionalProperties": False}, False, {}),)
CALL = '{"name": "f", "parameters": {}}'


def test_an_answer_is_one_call_or_text(accepts: Callable[[str, str], bool]) -> None:
    grammar = Llama3().grammar(ToolUse(TOOLS))

    for output in (CALL, "", "Hello {world}", f"Call: {CALL}"):
        assert accepts(grammar, output)
    for output in (f"{CALL}; {CALL}", f"{CALL} ", "{}", '{"name": "g", "parameters": {}}'):
        assert not accepts(grammar, output)


def test_an_answer_that_must_call_is_one_call(accepts: Callable[[str, str], bool]) -> None:
    grammar = Llama3().grammar(ToolUse(TOOLS, must_call=True))

    assert accepts(grammar, CALL)
    assert not accepts(grammar, "Hello")


def test_the_template_must_show_tools_and_write_parameters(templates: dict[str, str]) -> None:
    template = templates["parameters"]

    assert Llama3().is_spoken_by(template)
    assert not Llama3().is_spoken_by(template.replace("tools", "functions"))
    assert not Llama3().is_spoken_by(template.replace('"parameters"', '"args"'))
    assert not Llama3().is_spoken_by(template.replace('{"name": ', "{"))
