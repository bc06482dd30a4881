"""Messages of all roles, as the mesh carries them, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.rest.openai_messages import Conversation
from gateway.rest.validation import validated
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
ASSISTANT = {"role": "assistant", "content": None, "tool_calls": [CALL]}
TOOL = {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}


def messages(*given: Any) -> list[lm.ChatMessage]:
    return list(validated(Conversation, {"messages": list(given)}).to_messages().messages)


def test_call_and_its_answer_arrive() -> None:
    _, assistant, tool = messages({"role": "user", "content": "Rain?", "name": "Ann"}, ASSISTANT, TOOL)

    assert assistant.content == ""
    assert orjson.loads(assistant.tool_calls_json) == [CALL]
    assert tool == lm.ChatMessage(role="tool", content="sunny", tool_call_id="call_1")


def test_fields_of_the_clients_own_in_a_call_are_left_out() -> None:
    (message,) = messages(ASSISTANT | {"tool_calls": [CALL | {"index": 0}], "refusal": None})

    assert orjson.loads(message.tool_calls_json) == [CALL]


def test_name_of_the_speaker_arrives() -> None:
    assert messages({"role": "user", "content": "Rain?", "name": "Ann"})[0].name == "Ann"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "assistant", "tool_calls": []}, "messages[0].content"),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0].tool_calls"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "messages[0].tool_call_id"),
        (TOOL | {"tool_call_id": "c" * 257}, "messages[0].tool_call_id"),
        (ASSISTANT | {"tool_calls": [CALL] * 129}, "messages[0].tool_calls"),
        (ASSISTANT | {"tool_calls": [{"type": "function"}]}, "messages[0].tool_calls[0].id"),
        (ASSISTANT | {"tool_calls": [CALL | {"type": "custom"}]}, "messages[0].tool_calls[0].type"),
        (ASSISTANT | {"tool_calls": [CALL | {"function": {"name": "a b", "arguments": ""}}]},
         "messages[0].tool_calls[0].function.name"),
        (ASSISTANT | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": {}}}]},
         "messages[0].tool_calls[0].function.arguments"),
        (ASSISTANT | {"tool_calls": [CALL | {"function": {"name": "f", "arguments": "x" * 2**20}}]},
         "messages[0].tool_calls"),
        ({"role": "assistant", "content": "x", "function_call": {"name": "f"}}, "messages[0].function_call"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "messages[0].audio"),
        ({"role": "user", "content": "x", "name": "n" * 65}, "messages[0].name"),
    ],
)  # fmt: skip
def test_wrong_message_is_named(message: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        messages(message)

    assert raised.value.field == param
    assert f"'{param}'" in raised.value.message
