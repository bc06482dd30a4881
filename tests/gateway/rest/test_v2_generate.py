"""The generate extension over a real port."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from tests.gateway.conftest import Door

DETAILS = {"finish_reason": "stop", "prompt_tokens": 5, "cached_tokens": 2, "output_tokens": 3, "seed": 9}


async def test_generate_takes_parameters_both_ways(door: Door) -> None:
    for body in (
        {"text_input": "Once", "max_tokens": 8, "seed": 9, "stream": False},
        {"text_input": "Once", "parameters": {"max_tokens": 8, "seed": 9}},
    ):
        answer = await door.http.post("/v2/models/chat/generate", json=body)

        assert answer.json() == {
            "model_name": "chat",
            "model_version": "1",
            "text_output": "Hello wörld!",
            "details": DETAILS,
        }
    assert {request.sampling.max_tokens for request in door.model.requests} == {8}


async def test_guides_and_penalties_have_the_contracts_names(door: Door) -> None:
    body = {"text_input": "Once", "frequency_penalty": 1, "parameters": {"choices": ["yes", "no"]}}

    answer = await door.http.post("/v2/models/chat/generate", json=body)

    assert answer.json()["text_output"] == "yes"
    assert door.model.requests[0].sampling.frequency_penalty == 1


async def test_prompt_can_be_part_of_the_output(door: Door) -> None:
    body = {"id": "7", "text_input": "Once. ", "exclude_input_in_output": False}

    answer = await door.http.post("/v2/models/chat/generate", json=body)

    assert (answer.json()["text_output"], answer.json()["id"]) == ("Once. Hello wörld!", "7")


async def test_version_goes_to_the_model(door: Door) -> None:
    await door.http.post("/v2/models/chat/versions/1/generate", json={"text_input": "x"})

    assert door.model.requests[0].model_version == "1"


async def test_stream_is_an_event_for_each_text_and_one_with_the_details(door: Door) -> None:
    async with door.http.stream(
        "POST", "/v2/models/chat/generate_stream", json={"text_input": "Once", "seed": 9}
    ) as answer:
        content_type = answer.headers["content-type"]
        raw = b"".join([chunk async for chunk in answer.aiter_bytes()])

    assert content_type == "text/event-stream; charset=utf-8"
    assert raw.endswith(b"\n\n")
    events = [orjson.loads(block.removeprefix(b"data: ")) for block in raw.split(b"\n\n")[:-1]]
    assert [event["text_output"] for event in events] == ["Hello", " wörld", "!", ""]
    assert events[-1]["details"] == DETAILS
    assert all("details" not in event for event in events[:-1])


async def test_failure_in_the_middle_is_an_event(door: Door) -> None:
    async with door.http.stream(
        "POST", "/v2/models/chat/generate_stream", json={"text_input": "fails midway"}
    ) as answer:
        lines = [line async for line in answer.aiter_lines() if line]

    assert lines[-1] == 'data: {"error":"the replica went away"}'


async def test_client_that_leaves_cancels_the_call(door: Door) -> None:
    async with door.http.stream("POST", "/v2/models/chat/generate_stream", json={"text_input": "waits"}) as answer:
        await anext(answer.aiter_lines())

    async with asyncio.timeout(5):
        await door.model.cancelled.wait()


@pytest.mark.parametrize("verb", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("model", "body", "status", "says"),
    [
        ("nobody", {"text_input": "x"}, 404, "not deployed"),
        ("echo", {"text_input": "x"}, 400, "does not generate text"),
        ("chat", {}, 400, "'text_input'"),
        ("chat", {"text_input": 7}, 400, "'text_input'"),
        ("chat", {"text_input": "x", "parameters": 7}, 400, "'parameters'"),
        ("chat", {"text_input": "x", "temprature": 1}, 400, "no parameter 'temprature'"),
        ("chat", {"text_input": "x", "n": 2}, 400, "no parameter 'n'"),
        ("chat", {"text_input": "x", "regex": "a", "choices": ["a"]}, 400, "give one of them"),
        ("chat", {"text_input": "too long"}, 400, "5120 tokens"),
        ("chat", {"text_input": "busy"}, 429, "the queue is full"),
    ],
)
async def test_wrong_request_has_its_status(
    door: Door, verb: str, model: str, body: dict[str, Any], status: int, says: str
) -> None:
    answer = await door.http.post(f"/v2/models/{model}/{verb}", json=body)

    assert answer.status_code == status
    assert says in answer.json()["error"]
