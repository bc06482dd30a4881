"""The messages of Anthropic's conversations, and how a model's template wants them: as OpenAI's.

A message is a list of blocks there: what a tool said stands in the user's, and becomes a message of its own. Reference:
the Anthropic API's "Messages".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from gateway.rest.bodies import Json
from gateway.rest.guides import bounded_json
from gateway.rest.openai_tools import MAX_CALLS, MAX_CALLS_BYTES, CallId, FunctionName
from gateway.rest.validation import Strict, tag_of_text, tag_of_type
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_MESSAGES = 100_000
# Between the texts of turns that the API joins into one.
_TURN_BREAK = "\n\n"


class Known(Strict):
    """Base of Anthropic's objects: a field that is not known is refused, as there. cache_control: ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    cache_control: Json = None


class TextBlockParam(Known):
    """citations: those of an answer that comes back; ignored."""

    type: Literal["text"]
    text: Annotated[str, Field(min_length=1)]
    citations: Json = None


class ToolUseBlockParam(Known):
    """A call that the assistant made. caller: ignored."""

    type: Literal["tool_use"]
    id: CallId
    name: FunctionName
    input: dict[str, Json]
    caller: Json = None

    def to_json(self) -> dict[str, Json]:
        """OpenAI's tool call object. Raises InvalidInput."""
        arguments = bounded_json(self.input, "input", MAX_CALLS_BYTES)
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": arguments}}


_OnlyText = Discriminator(
    tag_of_type, custom_error_type="block", custom_error_message="only blocks of type 'text' are served here"
)
_TextBlocks = Annotated[list[Annotated[Annotated[TextBlockParam, Tag("#text")], _OnlyText]], Tag("#parts")]
_Text = Annotated[Annotated[str, Field(min_length=1)], Tag("#text")]
Texts = Annotated[_Text | _TextBlocks, Discriminator(tag_of_text)]


class ToolResultBlockParam(Known):
    """What a tool said. is_error: ignored; what went wrong stands in the content."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Annotated[Annotated[str, Tag("#text")] | _TextBlocks, Discriminator(tag_of_text)] = ""
    is_error: bool | None = None


class ThinkingBlockParam(Known):
    """Of another model's answer; ignored."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class RedactedThinkingBlockParam(Known):
    """As ThinkingBlockParam."""

    type: Literal["redacted_thinking"]
    data: str


_Block = Annotated[
    Annotated[TextBlockParam, Tag("#text")]
    | Annotated[ToolUseBlockParam, Tag("#tool_use")]
    | Annotated[ToolResultBlockParam, Tag("#tool_result")]
    | Annotated[ThinkingBlockParam, Tag("#thinking")]
    | Annotated[RedactedThinkingBlockParam, Tag("#redacted_thinking")],
    Discriminator(
        tag_of_type,
        custom_error_type="block",
        custom_error_message="blocks of the types 'text', 'tool_use' and 'tool_result' are served",
    ),
]
# What may stand in whose message.
_BLOCKS = {
    "user": (TextBlockParam, ToolResultBlockParam),
    "assistant": (TextBlockParam, ToolUseBlockParam, ThinkingBlockParam, RedactedThinkingBlockParam),
    "system": (TextBlockParam,),
}


class MessageParam(Strict):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        _Text | Annotated[Annotated[list[_Block], Field(min_length=1)], Tag("#parts")], Discriminator(tag_of_text)
    ]

    def blocks(self) -> Sequence[Known]:
        """The content; a text is one block."""
        return [TextBlockParam(type="text", text=self.content)] if isinstance(self.content, str) else self.content


def chat_messages(system: str | Sequence[TextBlockParam] | None, messages: Sequence[MessageParam]) -> lm.ChatMessages:
    """The conversation for a model. Raises InvalidInput."""
    if messages[-1].role == "assistant":
        raise InvalidInput("the last message is the assistant's; prefill is not served", field="messages")
    chat = lm.ChatMessages()
    if system:
        text = system if isinstance(system, str) else "".join(block.text for block in system)
        chat.messages.add(role="system", content=text)
    called: set[str] = set()
    for index, message in enumerate(messages):
        _check(message, f"messages[{index}]", called)
        for one in _of_message(message, f"messages[{index}]"):
            _append(chat, one)
    return chat


def _check(message: MessageParam, path: str, called: set[str]) -> None:
    """Raise InvalidInput for a block that is not this role's, or a result without a call before it."""
    for number, block in enumerate(message.blocks()):
        where = f"{path}.content[{number}]"
        if not isinstance(block, _BLOCKS[message.role]):
            raise InvalidInput(f"'{where}' is of a type that the role '{message.role}' has not", field=where)
        if isinstance(block, ToolUseBlockParam):
            called.add(block.id)
        if isinstance(block, ToolResultBlockParam) and block.tool_use_id not in called:
            raise InvalidInput(f"'{where}.tool_use_id' names no 'tool_use' block of a message before", field=where)


def _of_message(message: MessageParam, path: str) -> Iterator[lm.ChatMessage]:
    """One message for each tool that answered, then one for the rest."""
    blocks = message.blocks()
    for block in blocks:
        if isinstance(block, ToolResultBlockParam):
            yield lm.ChatMessage(role="tool", tool_call_id=block.tool_use_id, content=_joined([block.content]))
    text = _joined([block.text for block in blocks if isinstance(block, TextBlockParam)])
    calls = [block.to_json() for block in blocks if isinstance(block, ToolUseBlockParam)]
    if len(calls) > MAX_CALLS:
        raise InvalidInput(f"'{path}' has {len(calls)} calls; the limit is {MAX_CALLS}", field=path)
    if text or calls:
        calls_json = bounded_json(calls, path, MAX_CALLS_BYTES) if calls else ""
        yield lm.ChatMessage(role=message.role, content=text, tool_calls_json=calls_json)


def _joined(contents: Iterable[str | Sequence[TextBlockParam]]) -> str:
    return "".join(
        content if isinstance(content, str) else "".join(block.text for block in content) for content in contents
    )


def _append(chat: lm.ChatMessages, message: lm.ChatMessage) -> None:
    """Add a message; to one of the same user or assistant just before, its text."""
    last = chat.messages[-1] if chat.messages else None
    is_same = last is not None and last.role == message.role and message.role in ("user", "assistant")
    if last is None or not is_same or last.tool_calls_json or message.tool_calls_json:
        chat.messages.append(message)
    else:
        last.content += _TURN_BREAK + message.content
