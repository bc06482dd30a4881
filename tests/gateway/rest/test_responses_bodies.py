"""The bodies that clients of OpenAI's responses get, against golden files."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.rest.output_parts import OutputParts
from gateway.rest.responses_bodies import ResponseBodies, ResponseEvents
from gateway.rest.responses_requests import parse_request
from mesh.errors import InvalidInput, Overloaded, Unavailable
from mesh.v1 import language_model_pb2 as lm
from tests.gateway.rest.test_anthropic_bodies import ANSWERS
from tests.gateway.rest.test_openai_chunks import assert_golden

ASKED = {
    "model": "chat",
    "input": "hi",
    "instructions": "Be brief.",
    "max_output_tokens": 8,
    "metadata": {"a": "b"},
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": {"type": "function", "name": "f"},
}
BODIES = ResponseBodies("r-1", 1700000000, parse_request(ASKED))


def whole(messages: list[lm.GenerateResponse]) -> Any:
    parts = OutputParts()
    for message in messages:
        list(parts.add(message))
    return BODIES.whole(parts)


def events(messages: list[lm.GenerateResponse]) -> list[Any]:
    parts, told = OutputParts(), ResponseEvents(BODIES)
    list(parts.add(messages[0]))
    found = list(told.opening())
    for message in messages[1:]:
        found += [event for change in parts.add(message) for event in told.changed(change, parts)]
    return found + list(told.closing(parts))


def test_whole_responses_are_the_golden_ones() -> None:
    assert_golden("response.jsonl", [whole(messages) for messages in ANSWERS.values()])


def test_events_are_the_golden_ones() -> None:
    assert_golden("response_events.jsonl", [event for messages in ANSWERS.values() for event in events(messages)])


@pytest.mark.parametrize("name", ANSWERS)
def test_events_are_numbered_and_end_with_the_whole(name: str) -> None:
    found = events(ANSWERS[name])

    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[-1]["response"] == whole(ANSWERS[name])
    items = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert items == found[-1]["response"]["output"]


@pytest.mark.parametrize("name", ANSWERS)
def test_bodies_are_of_the_stock_clients_types(name: str) -> None:
    Response.model_validate(whole(ANSWERS[name]))
    for event in events(ANSWERS[name]):
        TypeAdapter(ResponseStreamEvent).validate_python(event)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unavailable("gone"), "server_error"),
        (Overloaded("full"), "rate_limit_exceeded"),
        (InvalidInput("wrong", field="input"), "invalid_prompt"),
    ],
)
def test_failure_is_told_twice_for_both_ways_of_reading(error: Any, code: str) -> None:
    parts, told = OutputParts(), ResponseEvents(BODIES)
    list(parts.add(lm.GenerateResponse(text="so far")))

    first, second = told.failing(parts, error)

    assert (first["type"], first["message"], first["error"]["message"]) == ("error", error.message, error.message)
    assert (second["type"], second["response"]["status"]) == ("response.failed", "failed")
    assert second["response"]["error"] == {"code": code, "message": error.message}
    (item,) = second["response"]["output"]
    assert (item["status"], item["content"][0]["text"]) == ("incomplete", "so far")
    Response.model_validate(second["response"])
