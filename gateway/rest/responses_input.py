"""The input of OpenAI's responses: a text, or items of a conversation, and how a model's template wants them.

A call of a function and what it gave are items of their own there; a template wants a call in the assistant's message.
Reference: the OpenAI API's "Responses".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from gateway.rest.bodies import Json
from gateway.rest.guides import bounded_json
from gateway.rest.openai_tools import MAX_CALLS, MAX_CALLS_BYTES, CallId, FunctionName
from gateway.rest.validation import Strict, tag_of_text, tag_of_type
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_ITEMS = 100_000


class InputText(Strict):
    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    """Of an answer that comes back."""

    type: Literal["output_text"]
    text: str


class Refusal(Strict):
    """As OutputText."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


_Part = Annotated[
    Annotated[InputText, Tag("#input_text")]
    | Annotated[OutputText, Tag("#output_text")]
    | Annotated[Refusal, Tag("#refusal")],
    Discriminator(tag_of_type, custom_error_type="part", custom_error_message="only parts of text are served yet"),
]
_Content = Annotated[Annotated[str, Tag("#text")] | Annotated[list[_Part], Tag("#parts")], Discriminator(tag_of_text)]


class InputMessage(Strict):
    type: Literal["message"] | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: _Content


class FunctionCall(Strict):
    """A call that the model made. arguments: JSON text."""

    type: Literal["function_call"]
    call_id: CallId
    name: FunctionName
    arguments: str

    def to_json(self) -> dict[str, Json]:
        """OpenAI's tool call object."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.call_id, "type": "function", "function": function}


class FunctionCallOutput(Strict):
    type: Literal["function_call_output"]
    call_id: CallId
    output: _Content


class ReasoningItem(Strict):
    """Of another model's answer; ignored."""

    type: Literal["reasoning"]


def _tag_of_item(value: Json) -> str:
    """A message may do without its type."""
    is_message = isinstance(value, dict) and value.get("type") is None and "role" in value
    return "#message" if is_message else tag_of_type(value)


_Item = Annotated[
    Annotated[InputMessage, Tag("#message")]
    | Annotated[FunctionCall, Tag("#function_call")]
    | Annotated[FunctionCallOutput, Tag("#function_call_output")]
    | Annotated[ReasoningItem, Tag("#reasoning")],
    Discriminator(
        _tag_of_item,
        custom_error_type="item",
        custom_error_message="items of the types 'message', 'function_call' and 'function_call_output' are served",
    ),
]
Input = Annotated[
    Annotated[str, Tag("#text")]
    | Annotated[Annotated[list[_Item], Field(min_length=1, max_length=MAX_ITEMS)], Tag("#parts")],
    Discriminator(tag_of_text),
]
Item = InputMessage | FunctionCall | FunctionCallOutput | ReasoningItem


def chat_messages(instructions: str | None, given: str | Sequence[Item]) -> lm.ChatMessages:
    """The conversation for a model. Raises InvalidInput."""
    chat = lm.ChatMessages()
    if instructions:
        chat.messages.add(role="system", content=instructions)
    if isinstance(given, str):
        chat.messages.add(role="user", content=given)
        return chat
    calls: list[Json] = []
    called: set[str] = set()
    for index, item in enumerate(given):
        match item:
            case FunctionCall():
                calls.append(item.to_json())
                called.add(item.call_id)
                continue
            case ReasoningItem():
                continue
            case FunctionCallOutput() if item.call_id not in called:
                path = f"input[{index}].call_id"
                raise InvalidInput(f"'{path}' names no function_call before it", field=path)
        _add_calls(chat, calls)
        chat.messages.append(_message(item))
    _add_calls(chat, calls)
    return chat


def _message(item: InputMessage | FunctionCallOutput) -> lm.ChatMessage:
    if isinstance(item, FunctionCallOutput):
        return lm.ChatMessage(role="tool", tool_call_id=item.call_id, content=_text(item.output))
    # What OpenAI calls the developer's is the system's to templates.
    return lm.ChatMessage(role="system" if item.role == "developer" else item.role, content=_text(item.content))


def _add_calls(chat: lm.ChatMessages, calls: list[Json]) -> None:
    """Put `calls` into the assistant's message just before, or one of their own, and forget them."""
    if not calls:
        return
    if len(calls) > MAX_CALLS:
        raise InvalidInput(f"'input' has {len(calls)} calls in a row; the limit is {MAX_CALLS}", field="input")
    last = chat.messages[-1] if chat.messages else None
    if last is None or last.role != "assistant" or last.tool_calls_json:
        last = chat.messages.add(role="assistant")
    last.tool_calls_json = bounded_json(calls, "input", MAX_CALLS_BYTES)
    calls.clear()


def _text(content: str | Sequence[InputText | OutputText | Refusal]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)
