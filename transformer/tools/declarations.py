"""The tools of a request, checked: which functions the model may call, and whether it must.

OpenAI's `tools` and `tool_choice`, as `mesh.v1.ChatMessages` carries them; knows neither templates nor grammars.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mesh.errors import InvalidInput
from transformer.tools import json_text
from transformer.tools.json_text import JsonObject

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 << 10
NAME = r"[A-Za-z0-9_-]{1,64}"

TOOLS_FIELD = "messages.tools_json"
CHOICE_FIELD = "messages.tool_choice"
_FUNCTION = "function:"
_NAME = re.compile(NAME)
_NO_PARAMETERS: JsonObject = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    parameters: the JSON schema of its arguments, always of an object. is_strict: the schema must be kept to the letter,
    so what a grammar cannot express of it is an error. declaration: OpenAI's tool object as it came, for templates.
    """

    name: str
    parameters: JsonObject
    is_strict: bool
    declaration: JsonObject


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that a model is shown, at least one.

    must_call: the answer has to be calls. only: name of the one function to call, once; empty: any.
    """

    tools: tuple[Tool, ...]
    must_call: bool = False
    only: str = ""

    @property
    def callable_tools(self) -> tuple[Tool, ...]:
        return tuple(tool for tool in self.tools if self.only in ("", tool.name))


def read_tool_use(tools_json: str, tool_choice: str) -> ToolUse | None:
    """None when there are no tools, or the choice is "none". Raises InvalidInput that names the field.

    The tools are checked even when the choice is "none".
    """
    tools = _read_tools(tools_json) if tools_json else ()
    choice = tool_choice or "auto"
    only = choice.removeprefix(_FUNCTION) if choice.startswith(_FUNCTION) else ""
    if not only and choice not in ("auto", "none", "required"):
        raise InvalidInput(
            f"{CHOICE_FIELD} is {choice[:80]!r}; it must be auto, none, required or function:NAME", field=CHOICE_FIELD
        )
    if not tools and (only or choice == "required"):
        raise InvalidInput(f"{CHOICE_FIELD} is {choice[:80]!r}, but {TOOLS_FIELD} has no tools", field=CHOICE_FIELD)
    if only and only not in {tool.name for tool in tools}:
        known = ", ".join(tool.name for tool in tools)[:200]
        raise InvalidInput(
            f"{CHOICE_FIELD} names the function {only[:64]!r}, which {TOOLS_FIELD} does not declare; it has {known}",
            field=CHOICE_FIELD,
        )
    if not tools or choice == "none":
        return None
    return ToolUse(tools, must_call=choice != "auto", only=only)


def _read_tools(tools_json: str) -> tuple[Tool, ...]:
    declared = json_text.parse(tools_json, TOOLS_FIELD, MAX_TOOLS_BYTES)
    if not isinstance(declared, list):
        raise _wrong("", "must be an array of tools")
    if len(declared) > MAX_TOOLS:
        raise InvalidInput(f"{TOOLS_FIELD} has {len(declared)} tools; at most {MAX_TOOLS}", field=TOOLS_FIELD)
    tools = tuple(_read_tool(f"[{index}]", declaration) for index, declaration in enumerate(declared))
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool.name in names:
            raise _wrong(f"[{index}].function.name", f"is '{tool.name}', which an earlier tool has")
        names.add(tool.name)
    return tools


def _read_tool(place: str, declaration: object) -> Tool:
    if not isinstance(declaration, dict):
        raise _wrong(place, "must be an object")
    kind = declaration.get("type", "function")
    if kind != "function":
        raise _wrong(f"{place}.type", f"is {str(kind)[:40]!r}; only 'function' is known")
    function = declaration.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{place}.function", "must be an object")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(f"{place}.function.name", "must be 1 to 64 letters, digits, '_' or '-'")
    is_strict = function.get("strict")
    if not isinstance(is_strict, bool | None):
        raise _wrong(f"{place}.function.strict", "must be true or false")
    parameters = _read_parameters(f"{place}.function.parameters", function.get("parameters"))
    return Tool(name, parameters, bool(is_strict), declaration)


def _read_parameters(place: str, schema: object) -> JsonObject:
    """A schema that only objects fit: calls have arguments by name."""
    if schema is None:
        return _NO_PARAMETERS
    if not isinstance(schema, dict):
        raise _wrong(place, "must be a JSON schema, an object")
    if schema.get("type", "object") != "object":
        raise _wrong(f"{place}.type", "must be 'object'")
    return {**schema, "type": "object"}


def _wrong(place: str, sentence: str) -> InvalidInput:
    return InvalidInput(f"{TOOLS_FIELD}{place} {sentence}", field=TOOLS_FIELD)
