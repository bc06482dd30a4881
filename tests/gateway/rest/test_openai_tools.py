"""Tools and tool calls: by unit, and by the stock client, streamed and not."""

from __future__ import annotations

import json
from typing import Any

import openai
import orjson
import pytest

from gateway.rest.openai_requests import ChatCompletionRequest, parse_request
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm
from tests.gateway.conftest import Door

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
TIME: Any = {"type": "function", "function": {"name": "get_time"}}
ASK: list[Any] = [{"role": "user", "content": "How is the weather in Paris?"}]
ARGUMENTS = {"city": "Paris", "days": 7}


def tool(name: str, **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


def conversation(**fields: Any) -> lm.ChatMessages:
    (request,) = parse_request(ChatCompletionRequest, {"model": "chat", "messages": ASK, **fields}).to_generate()
    return request.messages


def test_tools_arrive_as_they_were_given() -> None:
    given = conversation(tools=[WEATHER, TIME])

    assert orjson.loads(given.tools_json) == [WEATHER, TIME]
    assert given.tool_choice == ""


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ""),
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "get_time"}}, "function:get_time"),
    ],
)
def test_choices_of_a_tool_have_the_words_of_the_contract(choice: Any, expected: str) -> None:
    assert conversation(tools=[WEATHER, TIME], tool_choice=choice).tool_choice == expected


def test_no_tools_are_no_tools() -> None:
    assert conversation(tools=[], tool_choice="none", parallel_tool_calls=True).tools_json == ""


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [tool(f"f{index}") for index in range(129)]}, "tools"),
        ({"tools": [tool("f", description="x" * 2**18)]}, "tools"),
        ({"tools": [tool("f", parameters={"x": orjson.loads("[" * 600 + "]" * 600)})]}, "tools"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
        ({"tools": [TIME, tool("f" * 65)]}, "tools[1].function.name"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool("f\n")]}, "tools[0].function.name"),
        ({"tools": [tool("f", parameters="{}")]}, "tools[0].function.parameters"),
        ({"tools": [TIME, WEATHER, TIME]}, "tools[2].function.name"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": "required", "tools": []}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": "function:get_time"}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}}, "tool_choice"),
        ({"tools": [TIME], "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": [TIME], "tool_choice": "required", "response_format": {"type": "json_object"}}, "tool_choice"),
    ],
)
def test_wrong_tools_are_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        conversation(**fields)

    assert raised.value.field == param
    assert f"'{param}'" in raised.value.message or raised.value.message.startswith("two tools")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("auto", "get_weather"),
        ("required", "get_weather"),
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
    ],
)
async def test_stock_client_gets_a_call(client: openai.AsyncOpenAI, choice: Any, name: str) -> None:
    answer = await client.chat.completions.create(model="chat", messages=ASK, tools=[WEATHER, TIME], tool_choice=choice)

    (made,) = answer.choices
    assert (made.finish_reason, made.message.content) == ("tool_calls", None)
    calls: Any = made.message.tool_calls
    assert [(call.id, call.type, call.function.name) for call in calls] == [
        ("call_00", "function", name),
        ("call_01", "function", name),
    ]
    assert json.loads(calls[0].function.arguments) == (ARGUMENTS if name == "get_weather" else {})


async def test_stock_client_puts_streamed_arguments_together(client: openai.AsyncOpenAI, door: Door) -> None:
    async with client.chat.completions.stream(model="chat", messages=ASK, tools=[WEATHER], n=2) as stream:
        done = [event async for event in stream if event.type == "tool_calls.function.arguments.done"]
        answer = await stream.get_final_completion()

    assert len(done) == 4
    assert [choice.finish_reason for choice in answer.choices] == ["tool_calls", "tool_calls"]
    for choice in answer.choices:
        for call in choice.message.tool_calls or ():
            assert json.loads(call.function.arguments) == ARGUMENTS
    (record,) = await door.records()
    assert record["finish_reason"] == "tool_calls"
    assert json.loads(record["output"]["tool_calls"][1]["arguments"]) == ARGUMENTS
    assert orjson.loads(record["prompt"]["tools_json"]) == [WEATHER]


async def test_one_call_alone_when_parallel_ones_are_not_wanted(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="chat", messages=ASK, tools=[WEATHER], parallel_tool_calls=False
    )
    stream = await client.chat.completions.create(
        model="chat", messages=ASK, tools=[WEATHER], parallel_tool_calls=False, stream=True
    )
    deltas = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or ()]

    assert [call.id for call in answer.choices[0].message.tool_calls or ()] == ["call_00"]
    assert {delta.index for delta in deltas} == {0}


async def test_answer_of_a_tool_goes_back_to_the_model(client: openai.AsyncOpenAI, door: Door) -> None:
    first = await client.chat.completions.create(model="chat", messages=ASK, tools=[WEATHER])
    message = first.choices[0].message

    calls = message.tool_calls or []
    results: list[Any] = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
    last = await client.chat.completions.create(
        model="chat", messages=[*ASK, message.to_dict(), *results], tools=[WEATHER]
    )

    assert last.choices[0].message.content == "Hello wörld!"
    assert last.choices[0].message.tool_calls is None
    _, assistant, *tools = door.model.requests[1].messages.messages
    assert [call["id"] for call in orjson.loads(assistant.tool_calls_json)] == ["call_00", "call_01"]
    assert [one.tool_call_id for one in tools] == ["call_00", "call_01"]


async def test_choice_without_a_call_and_no_choice_at_all(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="chat", messages=ASK, tools=[WEATHER], tool_choice="none")
    with pytest.raises(openai.BadRequestError, match="only allowed when 'tools'") as raised:
        await client.chat.completions.create(model="chat", messages=ASK, tool_choice="required")

    assert answer.choices[0].message.tool_calls is None
    assert (raised.value.param, raised.value.type) == ("tool_choice", "invalid_request_error")
