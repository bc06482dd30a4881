"""The messages of a conversation, as OpenAI's clients send them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gateway.rest.bodies import Json
from gateway.rest.guides import bounded_json
from gateway.rest.openai_tools import MAX_CALLS, MAX_CALLS_BYTES, CallId, ToolCall
from gateway.rest.validation import Strict
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

# OpenAI's "developer" is what templates call "system".
_ROLES = {"developer": "system"}
_NOT_SERVED = ("function_call", "audio")


class TextPart(Strict):
    type: Literal["text"]
    text: str


class Message(Strict):
    """tool_calls: of an assistant. tool_call_id: of a tool, whose content answers that call."""

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str | list[TextPart] | None = None
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_CALLS)] | None = None
    tool_call_id: CallId | None = None
    function_call: Json = None
    audio: Json = None

    @property
    def text(self) -> str:
        """The content, its parts joined."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        return "".join(part.text for part in self.content)

    def to_message(self, path: str) -> lm.ChatMessage:
        """The message for a model; `path` says in an error which it is. Raises InvalidInput."""
        self._check(path)
        calls = [call.to_json() for call in self.tool_calls or ()]
        return lm.ChatMessage(
            role=_ROLES.get(self.role, self.role),
            content=self.text,
            name=self.name or "",
            tool_call_id=self.tool_call_id or "",
            tool_calls_json=bounded_json(calls, f"{path}.tool_calls", MAX_CALLS_BYTES) if calls else "",
        )

    def _check(self, path: str) -> None:
        for name in _NOT_SERVED:
            if getattr(self, name) is not None:
                raise InvalidInput(f"'{path}.{name}' is not served", field=f"{path}.{name}")
        if self.content is None and not self.tool_calls:
            raise InvalidInput(f"'{path}.content' is required", field=f"{path}.content")
        if self.tool_calls and self.role != "assistant":
            raise InvalidInput(f"'{path}.tool_calls' is for the role 'assistant' only", field=f"{path}.tool_calls")
        if self.role == "tool" and self.tool_call_id is None:
            raise InvalidInput(f"'{path}.tool_call_id' is required", field=f"{path}.tool_call_id")
        if self.tool_call_id is not None and self.role != "tool":
            raise InvalidInput(f"'{path}.tool_call_id' is for the role 'tool' only", field=f"{path}.tool_call_id")


class Conversation(Strict):
    messages: Annotated[list[Message], Field(min_length=1)]

    def to_messages(self) -> lm.ChatMessages:
        """The conversation for a model. Raises InvalidInput."""
        return lm.ChatMessages(
            messages=[message.to_message(f"messages[{index}]") for index, message in enumerate(self.messages)]
        )
