"""Tools in plain messages, for models whose templates know none: the Hermes format, spelled out.

The tools are told in the system message, which comes first and is made when there is none. Calls become text of the
assistant, and results that follow one another one message of the user, for templates whose roles must alternate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

from transformer.steps.prompt import Message
from transformer.tools.hermes import ARGUMENTS, CLOSING, OPENING
from transformer.tools.json_text import JsonObject, write

_BEFORE_TOOLS = """\
You can call functions. These are their declarations, in JSON, within <tools></tools>:
<tools>
"""
_AFTER_TOOLS = f"""
</tools>

To call a function, write a JSON object with its name and its arguments within {OPENING}{CLOSING}:
{OPENING}
{{"name": <name of the function>, "{ARGUMENTS}": <object of its arguments>}}
{CLOSING}
What it returns comes back within <tool_response></tool_response>."""


def spell_out(messages: Sequence[Message], tools: Sequence[JsonObject]) -> list[Message]:
    """`messages`, and `tools` (OpenAI's tool objects) with them, without anything that only some templates know."""
    plain: list[Message] = []
    for is_result, group in groupby(messages, key=lambda message: message.role == "tool"):
        turns = list(group)
        plain += [_results(turns)] if is_result else [_with_calls(turn) for turn in turns]
    if not tools:
        return plain
    if plain and plain[0].role == "system":
        return [replace(plain[0], content=f"{plain[0].content}\n\n{_declarations(tools)}"), *plain[1:]]
    return [Message("system", _declarations(tools)), *plain]


def _declarations(tools: Sequence[JsonObject]) -> str:
    return _BEFORE_TOOLS + "\n".join(write(tool) for tool in tools) + _AFTER_TOOLS


def _results(messages: Sequence[Message]) -> Message:
    results = (f"<tool_response>\n{message.content}\n</tool_response>" for message in messages)
    return Message("user", "\n".join(results))


def _with_calls(message: Message) -> Message:
    calls = [_call(call) for call in message.tool_calls]
    return Message(message.role, "\n".join([message.content, *calls] if message.content else calls or [""]))


def _call(call: JsonObject) -> str:
    function = call["function"]
    assert isinstance(function, dict)  # read_past_calls saw to it
    head = f'{{"name": {write(function["name"])}, "{ARGUMENTS}": {write(function["arguments"])}}}'
    return f"{OPENING}\n{head}\n{CLOSING}"
