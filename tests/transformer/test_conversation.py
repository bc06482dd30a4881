"""Messages and tools come off the wire checked, and errors name the field of the wire."""

from __future__ import annotations

import json

import pytest

from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm
from transformer.conversation import read_conversation
from transformer.steps.prompt import Message

TOOL = {"type": "function", "function": {"name": "f"}}
CALLS = '[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\\"a\\": 1}"}}]'


def test_a_conversation_with_tools_is_read() -> None:
    wire = lm.ChatMessages(
        messages=[
            lm.ChatMessage(role="user", content="q", name="ann"),
            lm.ChatMessage(role="assistant", tool_calls_json=CALLS),
            lm.ChatMessage(role="tool", content="r", tool_call_id="c", name="f"),
        ],
        tools_json=json.dumps([TOOL]),
        tool_choice="function:f",
    )

    read = read_conversation(wire)

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert read.messages == [
        Message("user", "q", name="ann"),
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "r", tool_call_id="c", name="f"),
    ]
    assert read.declarations == [TOOL]
    assert read.tool_use is not None
    assert read.tool_use.only == "f"


def test_the_choice_none_shows_no_tools() -> None:
    read = read_conversation(lm.ChatMessages(tools_json=json.dumps([TOOL]), tool_choice="none"))

    assert (read.declarations, read.tool_use) == ([], None)


def test_the_calls_of_all_messages_are_bounded_together() -> None:
    calls = json.dumps([{"function": {"name": "f", "arguments": {"a": "x" * 99_900}}}])
    wire = lm.ChatMessages(messages=[lm.ChatMessage(role="assistant", tool_calls_json=calls)] * 11)

    with pytest.raises(InvalidInput, match="messages hold 1099483 characters of calls; at most 1048576"):
        read_conversation(wire)


def test_wrong_calls_are_named_by_their_message() -> None:
    wire = lm.ChatMessages(messages=[lm.ChatMessage(role="user"), lm.ChatMessage(tool_calls_json="{}")])

    with pytest.raises(InvalidInput, match=r"^messages\[1\]\.tool_calls_json must be an array") as caught:
        read_conversation(wire)

    assert caught.value.field == "messages[1].tool_calls_json"
