"""Anthropic's conversations as a model's template wants them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.rest.anthropic_requests import MessagesRequest, parse_request
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm


def chat(*messages: dict[str, Any], **more: Any) -> list[lm.ChatMessage]:
    body = {"model": "m", "max_tokens": 1, "messages": list(messages), **more}
    return list(parse_request(MessagesRequest, body).to_generate().messages.messages)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


CALL = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Paris"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sunny"}


def test_system_and_blocks_become_messages() -> None:
    messages = chat(
        user([text("A", cache_control={"type": "ephemeral"}), text("B")]), system=[text("Be "), text("brief.")]
    )

    assert messages == [
        lm.ChatMessage(role="system", content="Be brief."),
        lm.ChatMessage(role="user", content="AB"),
    ]
    assert chat(user("A"), system="Be brief.")[0].content == "Be brief."


def test_calls_and_results_become_openais() -> None:
    asked, called, said, more = chat(
        user("How is it?"), assistant([text("Let me see."), CALL]), user([RESULT, text("And now?")])
    )

    assert (asked.role, called.role, said.role, more.role) == ("user", "assistant", "tool", "user")
    assert called.content == "Let me see."
    (only,) = json.loads(called.tool_calls_json)
    assert only["id"] == "toolu_1"
    assert (only["function"]["name"], json.loads(only["function"]["arguments"])) == ("get_weather", {"city": "Paris"})
    assert (said.tool_call_id, said.content, more.content) == ("toolu_1", "sunny", "And now?")


def test_result_may_be_blocks_or_nothing() -> None:
    blocks = {**RESULT, "content": [text("sun"), text("ny")], "is_error": True}
    nothing = {"type": "tool_result", "tool_use_id": "toolu_1"}

    assert chat(user("?"), assistant([CALL]), user([blocks]))[-1].content == "sunny"
    assert chat(user("?"), assistant([CALL]), user([nothing]))[-1] == lm.ChatMessage(
        role="tool", tool_call_id="toolu_1"
    )


def test_turns_of_one_role_are_one_turn() -> None:
    messages = chat(user("A"), user([text("B")]), assistant("C"), assistant("D"), user("E"))

    assert [(one.role, one.content) for one in messages] == [("user", "A\n\nB"), ("assistant", "C\n\nD"), ("user", "E")]


def test_thinking_of_another_model_is_left_out() -> None:
    thought = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "redacted_thinking", "data": "x"}]

    assert chat(user("A"), assistant([*thought, text("B")]), user("C"))[1].content == "B"


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([assistant("A")], "prefill is not served"),
        ([user("")], "'messages[0].content' is wrong"),
        ([user([])], "'messages[0].content' is wrong"),
        ([user([text("")])], "'messages[0].content[0].text' is wrong"),
        ([user(None)], "'messages[0].content' is wrong"),
        ([user([7])], "'messages[0].content[0]' is wrong"),
        ([user([{"type": "image", "source": {}}])], "'messages[0].content[0]' is wrong: blocks of the types"),
        ([user([text("A", colour="red")])], "'messages[0].content[0]' has no field 'colour'"),
        ([{"role": "tool", "content": "A"}], "'messages[0].role' is wrong"),
        ([user([CALL])], "'messages[0].content[0]' is of a type that the role 'user' has not"),
        ([user("A"), assistant([RESULT]), user("B")], "'messages[1].content[0]' is of a type"),
        ([user([RESULT])], "'messages[0].content[0].tool_use_id' names no 'tool_use' block"),
        ([user("A"), assistant([CALL] * 129), user("B")], "'messages[1]' has 129 calls; the limit is 128"),
        ([], "'messages' is wrong"),
    ],
)
def test_wrong_messages_are_refused_with_their_place(messages: list[dict[str, Any]], complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        chat(*messages)

    assert complaint in caught.value.message


def test_picture_in_a_result_is_refused() -> None:
    with pytest.raises(InvalidInput, match="only blocks of type 'text' are served here"):
        chat(user("A"), assistant([CALL]), user([{**RESULT, "content": [{"type": "image"}]}]))
