"""Anthropic's routes by HTTP against a real gateway; the stock client asks the same in tests/sdk."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Door

ASKED: dict[str, Any] = {"model": "chat", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
TOOL = {
    "name": "get_weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def ask(door: Door, **more: Any) -> Any:
    answer = await door.http.post("/v1/messages", json={**ASKED, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def stream(door: Door, **more: Any) -> list[Any]:
    answer = await door.http.post("/v1/messages", json={**ASKED, "stream": True, **more})
    assert answer.status_code == 200, answer.text
    events = []
    for text in answer.text.strip().split("\n\n"):
        name, data = text.split("\n")
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


async def test_answer_its_ids_and_its_record(door: Door) -> None:
    answer = await door.http.post("/v1/messages", json=ASKED, headers={"x-request-id": "r-1"})

    message = answer.json()
    assert (message["id"], answer.headers["request-id"], answer.headers["x-request-id"]) == ("msg_r-1", "r-1", "r-1")
    assert message["content"] == [{"type": "text", "text": "Hello wörld!"}]
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("end_turn", 3)
    (record,) = await door.records()
    assert (record["protocol"], record["route"], record["output"]["text"]) == (
        "anthropic",
        "/v1/messages",
        "Hello wörld!",
    )


async def test_stream_has_anthropics_events_in_order(door: Door) -> None:
    events = await stream(door)

    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        *["content_block_delta"] * 3,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert "".join(event["delta"]["text"] for event in events[3:6]) == "Hello wörld!"


async def test_streamed_calls_of_a_tool(door: Door) -> None:
    events = await stream(door, tools=[TOOL], tool_choice={"type": "any"})

    blocks = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert [(block["type"], block["name"], block["input"]) for block in blocks] == [("tool_use", "get_weather", {})] * 2
    pieces = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(pieces) == '{"city": "Paris"}' * 2
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


async def test_one_call_when_parallel_use_is_disabled(door: Door) -> None:
    choice = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}

    message = await ask(door, tools=[TOOL], tool_choice=choice)

    assert [block["input"] for block in message["content"]] == [{"city": "Paris"}]


async def test_count_of_tokens(door: Door) -> None:
    body = {name: value for name, value in ASKED.items() if name != "max_tokens"}

    answer = await door.http.post("/v1/messages/count_tokens", json={**body, "system": "Be brief."})

    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 5})
    assert "request-id" in answer.headers
    assert [message.role for message in door.model.tokenized[0].messages.messages] == ["system", "user"]


@pytest.mark.parametrize(
    ("changes", "status", "kind"),
    [
        ({"model": "nobody"}, 404, "not_found_error"),
        ({"model": "echo"}, 400, "invalid_request_error"),
        ({"colour": "red"}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "too long"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": "busy"}]}, 429, "rate_limit_error"),
        ({"messages": [{"role": "user", "content": "busy"}], "stream": True}, 429, "rate_limit_error"),
        ({"messages": [{"role": "user", "content": "half an answer"}]}, 503, "overloaded_error"),
    ],
)
async def test_errors_have_anthropics_form(door: Door, changes: dict[str, Any], status: int, kind: str) -> None:
    answer = await door.http.post("/v1/messages", json={**ASKED, **changes})

    body = answer.json()
    assert (answer.status_code, body["type"], body["error"]["type"]) == (status, "error", kind)
    assert body["request_id"] == answer.headers["request-id"]
    assert answer.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_wrong_method_and_path_have_it_too(door: Door) -> None:
    method = await door.http.get("/v1/messages")
    path = await door.http.get("/v1/messages/batches")

    assert (method.status_code, method.json()["error"]["type"]) == (405, "invalid_request_error")
    assert (path.status_code, path.json()["error"]["type"]) == (404, "not_found_error")


async def test_late_failure_is_an_event_that_ends_the_stream(door: Door) -> None:
    events = await stream(door, messages=[{"role": "user", "content": "fails midway"}])

    assert events[-1]["type"] == "error"
    assert events[-1]["error"] == {"type": "overloaded_error", "message": "the replica went away"}
    assert "message_stop" not in [event["type"] for event in events]


async def test_client_that_goes_away_cancels_the_generation(door: Door) -> None:
    asked = {**ASKED, "messages": [{"role": "user", "content": "waits"}], "stream": True}
    async with door.http.stream("POST", "/v1/messages", json=asked) as answer:
        async for _ in answer.aiter_lines():
            break

    await door.model.cancelled.wait()
