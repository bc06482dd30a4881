"""Items of OpenAI's responses as a model's template wants them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.rest.responses_requests import parse_request
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": '{"a": 1}', "id": "fc_1"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "7"}


def chat(given: Any, **more: Any) -> list[lm.ChatMessage]:
    return list(parse_request({"model": "m", "input": given, **more}).to_generate().messages.messages)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def test_text_is_the_users() -> None:
    assert chat("hi", instructions="Be brief.") == [
        lm.ChatMessage(role="system", content="Be brief."),
        lm.ChatMessage(role="user", content="hi"),
    ]


def test_messages_with_and_without_a_type() -> None:
    parts = [{"type": "input_text", "text": "A"}, {"type": "input_text", "text": "B"}]
    said = {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [
            {"type": "output_text", "text": "C", "annotations": [], "logprobs": []},
            {"type": "refusal", "refusal": "D"},
        ],
    }

    messages = chat([{"role": "developer", "content": "E"}, user(parts), said, user("F")])

    assert [(one.role, one.content) for one in messages] == [
        ("system", "E"),
        ("user", "AB"),
        ("assistant", "CD"),
        ("user", "F"),
    ]


def test_calls_join_the_assistants_message_before_them() -> None:
    another = {**CALL, "call_id": "call_2"}
    messages = chat(
        [user("A"), {"role": "assistant", "content": "B"}, CALL, {"type": "reasoning", "summary": []}, another, OUTPUT]
    )

    assert [message.role for message in messages] == ["user", "assistant", "tool"]
    assert messages[1].content == "B"
    calls = json.loads(messages[1].tool_calls_json)
    assert [(call["id"], call["function"]) for call in calls] == [
        (name, {"name": "f", "arguments": '{"a": 1}'}) for name in ("call_1", "call_2")
    ]
    assert (messages[2].tool_call_id, messages[2].content) == ("call_1", "7")


def test_calls_without_a_text_have_a_message_of_their_own() -> None:
    output = {**OUTPUT, "output": [{"type": "input_text", "text": "7"}]}
    asked, called, said = chat([user("A"), CALL, output])

    assert (called.role, called.content, bool(called.tool_calls_json)) == ("assistant", "", True)
    assert (asked.content, said.content) == ("A", "7")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ([], "input"),
        (7, "input"),
        (None, "input"),
        ([7], "input[0]"),
        ([{}], "input[0]"),
        ([{"type": "item_reference", "id": "msg_1"}], "input[0]"),
        ([{"type": ["x"]}], "input[0]"),
        ([user([{"type": "input_image"}])], "input[0].content[0]"),
        ([user(None)], "input[0].content"),
        ([{"role": "tool", "content": "A"}], "input[0].role"),
        ([OUTPUT], "input[0].call_id"),
        ([{**CALL, "arguments": {}}], "input[0].arguments"),
        ([{**CALL, "name": "not a name"}], "input[0].name"),
        ([CALL] * 129, "input"),
    ],
)
def test_wrong_items_are_refused_with_their_place(given: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        chat(given)

    assert caught.value.field == field
