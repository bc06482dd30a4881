"""The calls that a conversation holds already, in assistants' messages."""

from __future__ import annotations

from mesh.errors import InvalidInput
from transformer.tools import json_text
from transformer.tools.json_text import JsonObject

MAX_CALLS = 128
MAX_CALLS_BYTES = 1 << 20


def read_past_calls(tool_calls_json: str, field: str) -> tuple[JsonObject, ...]:
    """The calls of one message as templates want them: arguments are an object where OpenAI has its JSON text.

    Arguments whose text is no JSON object stay that text: a model may have written them, and the conversation goes on.
    Raises InvalidInput that names `field`.
    """
    if not tool_calls_json:
        return ()
    calls = json_text.parse(tool_calls_json, field, MAX_CALLS_BYTES)
    if not isinstance(calls, list):
        raise InvalidInput(f"{field} must be an array of tool calls", field=field)
    if len(calls) > MAX_CALLS:
        raise InvalidInput(f"{field} has {len(calls)} calls; at most {MAX_CALLS}", field=field)
    return tuple(_read_call(call, f"{field}[{index}]", field) for index, call in enumerate(calls))


def _read_call(call: object, place: str, field: str) -> JsonObject:
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        raise InvalidInput(f"{place} must be an object with a function", field=field)
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidInput(f"{place}.function.name must be a text", field=field)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, str | dict):
        raise InvalidInput(f"{place}.function.arguments must be a JSON text or an object", field=field)
    if isinstance(arguments, str):
        arguments = _object_or_text(arguments, f"{place}.function.arguments")
    return {**call, "function": {**function, "arguments": arguments}}


def _object_or_text(arguments: str, place: str) -> JsonObject | str:
    try:
        value = json_text.parse(arguments, place, MAX_CALLS_BYTES)
    except InvalidInput:
        return arguments
    return value if isinstance(value, dict) else arguments
