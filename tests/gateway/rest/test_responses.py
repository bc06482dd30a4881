"""OpenAI's responses by the stock client, against a real gateway on a real port."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from pydantic import BaseModel

from tests.gateway.conftest import Door

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": True,
}


class Place(BaseModel):
    name: str
    inhabitants: int


async def test_answer_and_its_record(client: openai.AsyncOpenAI, door: Door) -> None:
    response = await client.responses.create(model="chat", input="hi", instructions="Be brief.", temperature=0)

    assert (response.output_text, response.status) == ("Hello wörld!", "completed")
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (5, 3, 8)
    assert response.usage.input_tokens_details.cached_tokens == 2
    assert [message.role for message in door.model.requests[0].messages.messages] == ["system", "user"]
    (record,) = await door.records()
    assert (record["protocol"], record["route"]) == ("openai", "/v1/responses")


async def test_stream_has_openais_events_in_order(client: openai.AsyncOpenAI) -> None:
    async with client.responses.stream(model="chat", input="hi") as stream:
        events = [event async for event in stream]
        final = await stream.get_final_response()

    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert final.output_text == "Hello wörld!"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "get_weather"}])
async def test_streamed_call_of_a_tool(client: openai.AsyncOpenAI, choice: Any) -> None:
    stream = client.responses.stream(
        model="chat", input="hi", tools=[TOOL], tool_choice=choice, parallel_tool_calls=False
    )
    async with stream as events:
        deltas = [event.delta async for event in events if event.type == "response.function_call_arguments.delta"]
        final = await events.get_final_response()

    (call,) = final.output
    assert call.type == "function_call"
    assert (call.name, "".join(deltas), call.arguments) == ("get_weather", '{"city": "Paris"}', '{"city": "Paris"}')


async def test_output_goes_back_in_as_input(client: openai.AsyncOpenAI, door: Door) -> None:
    first = await client.responses.create(model="chat", input="the weather?", tools=[TOOL])
    calls = [item for item in first.output if item.type == "function_call"]
    given: list[Any] = [{"role": "user", "content": "the weather?"}, *first.output]
    given += [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]

    second = await client.responses.create(model="chat", input=given, tools=[TOOL])

    assert second.output_text == "Hello wörld!"
    roles = [message.role for message in door.model.requests[1].messages.messages]
    assert roles == ["user", "assistant", "tool", "tool"]


async def test_parsed_output(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.parse(model="chat", input="hi", text_format=Place)

    assert response.output_parsed == Place(name="Paris", inhabitants=7)


async def test_log_probabilities_come_with_their_text(client: openai.AsyncOpenAI) -> None:
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
    response = await client.responses.create(model="chat", input="hi", **asked)
    stream = await client.responses.create(model="chat", input="hi", stream=True, **asked)
    deltas = [event async for event in stream if event.type == "response.output_text.delta"]

    (message,) = response.output
    assert message.type == "message" and message.content[0].type == "output_text"
    assert [one.token for one in message.content[0].logprobs or ()] == ["Hello", " wörld", "!"]
    assert [[one.token for one in delta.logprobs] for delta in deltas] == [["Hello"], [" wörld"], ["!"]]


async def test_errors_have_the_clients_classes(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody", input="hi")
    with pytest.raises(openai.BadRequestError, match="'previous_response_id' is not served"):
        await client.responses.create(model="chat", input="hi", previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError) as long:
        await client.responses.create(model="chat", input="too long")
    with pytest.raises(openai.RateLimitError):
        await client.responses.create(model="chat", input="busy", stream=True)
    with pytest.raises(openai.InternalServerError, match="before output 0 was complete"):
        await client.responses.create(model="chat", input="half an answer")

    assert (long.value.param, long.value.code) == ("input", "context_length_exceeded")


@pytest.mark.parametrize("depth", range(240, 256))
async def test_deep_schema_is_answered_or_refused_by_name(door: Door, depth: int) -> None:
    """The answer repeats it, deeper than it was sent: at no depth can that fail."""
    schema: Any = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": schema}
    of_text = {"text": {"format": {"type": "json_schema", "name": "deep", "schema": {"title": schema}}}}
    of_tool = {"tools": [{**TOOL, "parameters": {"title": schema}}]}

    for asked, field in ((of_text, "text.format.schema"), (of_tool, "tools")):
        for stream in (False, True):
            body = {"model": "chat", "input": "hi", "stream": stream, **asked}
            answer = await door.http.post("/v1/responses", json=body)
            assert answer.status_code == 200 or answer.json()["error"]["param"] == field
            assert "response.failed" not in answer.text


async def test_late_failure_raises_in_the_client(client: openai.AsyncOpenAI, door: Door) -> None:
    stream = await client.responses.create(model="chat", input="fails midway", stream=True)
    seen = []

    with pytest.raises(openai.APIError, match="the replica went away"):
        async for event in stream:
            seen.append(event.type)

    assert seen[-1] == "response.output_text.delta"
    (record,) = await door.records()
    assert record["error"] == "the replica went away"


async def test_client_that_goes_away_cancels_the_generation(client: openai.AsyncOpenAI, door: Door) -> None:
    stream = await client.responses.create(model="chat", input="waits", stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()

    await door.model.cancelled.wait()
