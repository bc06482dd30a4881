"""A conversation off the wire: its messages and tools as the plain, checked values that the steps work with."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm
from transformer.steps.prompt import Message
from transformer.tools.declarations import ToolUse, read_tool_use
from transformer.tools.json_text import JsonObject
from transformer.tools.past_calls import MAX_CALLS_BYTES, read_past_calls


@dataclass(frozen=True, slots=True)
class Conversation:
    """tool_use: None when the model has no tools to call."""

    messages: list[Message]
    tool_use: ToolUse | None

    @property
    def declarations(self) -> list[JsonObject]:
        """The tools as templates show them."""
        return [] if self.tool_use is None else [tool.declaration for tool in self.tool_use.tools]


def read_conversation(conversation: lm.ChatMessages) -> Conversation:
    """Raises InvalidInput that names the field."""
    num_chars = sum(len(message.tool_calls_json) for message in conversation.messages)
    if num_chars > MAX_CALLS_BYTES:
        raise InvalidInput(
            f"messages hold {num_chars} characters of calls; at most {MAX_CALLS_BYTES}", field="messages"
        )
    messages = [_message(index, message) for index, message in enumerate(conversation.messages)]
    return Conversation(messages, read_tool_use(conversation.tools_json, conversation.tool_choice))


def _message(index: int, message: lm.ChatMessage) -> Message:
    calls = read_past_calls(message.tool_calls_json, f"messages[{index}].tool_calls_json")
    return Message(message.role, message.content, calls, message.tool_call_id, message.name)
