"""Tools that a model may call, and the calls that a conversation holds: checked, and as the mesh carries them.

They cross the mesh as OpenAI's own JSON: the transformer's chat template wants them in that form. What a tool's
parameters say is the predictor's to check. Reference: the OpenAI API's "Function calling".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from gateway.rest.bodies import Json
from gateway.rest.guides import bounded_json
from gateway.rest.validation import Strict
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_TOOLS = 128
MAX_TOOLS_BYTES = 256 * 1024
MAX_CALLS = 128
MAX_CALLS_BYTES = 1024 * 1024

# In mesh.v1.ChatMessages, before the name of the one function that must be called.
NAMED = "function:"

FunctionName = Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]


class Function(Strict):
    name: FunctionName
    description: str | None = None
    parameters: dict[str, Json] | None = None
    strict: bool | None = None


class Tool(Strict):
    type: Literal["function"]
    function: Function

    def to_json(self) -> dict[str, Json]:
        """What was given, and no more."""
        given = {
            "name": self.function.name,
            "description": self.function.description,
            "parameters": self.function.parameters,
            "strict": self.function.strict,
        }
        return {"type": self.type, "function": {name: value for name, value in given.items() if value is not None}}


class CalledFunction(Strict):
    """arguments: JSON text, as the model wrote it."""

    name: FunctionName
    arguments: str


class ToolCall(Strict):
    id: CallId
    type: Literal["function"]
    function: CalledFunction

    def to_json(self) -> dict[str, Json]:
        """OpenAI's tool call object."""
        function = {"name": self.function.name, "arguments": self.function.arguments}
        return {"id": self.id, "type": self.type, "function": function}


def _choice(value: Json) -> Json:
    """OpenAI's word, or object, as the word of mesh.v1.ChatMessages."""
    if value in ("none", "auto", "required"):
        return value
    named = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(name, str):
        return NAMED + name
    form = '{"type": "function", "function": {"name": …}}'
    raise PydanticCustomError("tool_choice", "it must be 'none', 'auto', 'required' or {form}", {"form": form})


# What clients may write; for the OpenAPI document.
_CHOICES: dict[str, Json] = {
    "anyOf": [
        {"enum": ["none", "auto", "required"]},
        {
            "type": "object",
            "properties": {
                "type": {"const": "function"},
                "function": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            },
            "required": ["type", "function"],
        },
    ]
}


class ToolFields(Strict):
    """parallel_tool_calls: false cuts an answer down to its first call."""

    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[str, BeforeValidator(_choice), WithJsonSchema(_CHOICES)] | None = None
    parallel_tool_calls: bool | None = None

    @property
    def needs_call(self) -> bool:
        """True when the output must be a tool call."""
        return self.tool_choice is not None and self.tool_choice not in ("none", "auto")

    def add_tools(self, messages: lm.ChatMessages) -> None:
        """Add the tools to a conversation. Raises InvalidInput."""
        offer(messages, [tool.to_json() for tool in self.tools or ()], self.tool_choice, "tools[{}].function.name")


def offer(messages: lm.ChatMessages, tools: Sequence[dict[str, Json]], choice: str | None, name_field: str) -> None:
    """Add tools, as OpenAI's objects, to a conversation. Raises InvalidInput.

    choice: the word of mesh.v1.ChatMessages. name_field: where the client wrote the name of tool {}.
    """
    if not tools:
        if choice not in (None, "none"):
            raise InvalidInput("'tool_choice' is only allowed when 'tools' are given", field="tool_choice")
        return
    _check_names([tool["function"]["name"] for tool in tools], choice or "", name_field)
    messages.tools_json = bounded_json(tools, "tools", MAX_TOOLS_BYTES)
    messages.tool_choice = choice or ""


def _check_names(names: list[str], choice: str, name_field: str) -> None:
    seen: set[str] = set()
    for index, name in enumerate(names):
        if name in seen:
            raise InvalidInput(f"two tools have the name '{name}'", field=name_field.format(index))
        seen.add(name)
    if choice.startswith(NAMED) and choice.removeprefix(NAMED) not in seen:
        named = choice.removeprefix(NAMED)[:64]
        raise InvalidInput(f"'tool_choice' names the function {named!a}, which is not in 'tools'", field="tool_choice")
