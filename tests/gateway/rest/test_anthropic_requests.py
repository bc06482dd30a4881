"""What Anthropic's clients send, as the mesh's own messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.rest.anthropic_requests import (
    IGNORED,
    NOT_SERVED,
    CountTokensRequest,
    MessagesRequest,
    parse_request,
)
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

BODY: dict[str, Any] = {"model": "m", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": SCHEMA}


def generate(**more: Any) -> lm.GenerateRequest:
    return parse_request(MessagesRequest, {**BODY, **more}).to_generate()


def test_sampling_parameters() -> None:
    request = generate(temperature=0.5, top_p=0.9, top_k=7, stop_sequences=["a", "b"])

    assert request.model_name == "m"
    assert request.sampling == lm.SamplingParameters(max_tokens=8, temperature=0.5, top_p=0.9, top_k=7, stop=["a", "b"])


def test_what_is_not_set_stays_unset() -> None:
    assert generate().sampling == lm.SamplingParameters(max_tokens=8)


def test_tools_are_openais() -> None:
    messages = generate(tools=[TOOL, {"type": "custom", "name": "f", "input_schema": {}}]).messages

    assert messages.tool_choice == ""
    function = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
    tools = json.loads(messages.tools_json)
    assert tools == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "f", "parameters": {}}},
    ]
    # Templates write tools out: in another order the prompt would be another one than OpenAI's route makes.
    assert list(tools[0]["function"]) == list(function)


@pytest.mark.parametrize(
    ("choice", "word"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "none"}, "none"),
        ({"type": "any", "disable_parallel_tool_use": True}, "required"),
        ({"type": "tool", "name": "get_weather"}, "function:get_weather"),
    ],
)
def test_choice_of_a_tool(choice: dict[str, Any], word: str) -> None:
    request = parse_request(MessagesRequest, {**BODY, "tools": [TOOL], "tool_choice": choice})

    assert request.to_generate().messages.tool_choice == word
    assert request.one_call == ("disable_parallel_tool_use" in choice)


def test_json_schema_of_the_output_is_a_guide() -> None:
    request = generate(output_config={"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}})

    assert json.loads(request.sampling.guide.json_schema) == SCHEMA


def test_tokens_are_counted_of_the_same_conversation() -> None:
    more = {"system": "Be brief.", "tools": [TOOL], "tool_choice": {"type": "any"}}
    counted = {name: value for name, value in BODY.items() if name != "max_tokens"}

    asked = parse_request(CountTokensRequest, {**counted, **more}).to_tokenize()

    assert asked.messages == generate(**more).messages


@pytest.mark.parametrize("field", sorted(IGNORED))
def test_ignored_fields_change_nothing(field: str) -> None:
    assert generate(**{field: {"some": "thing"}}) == generate()


@pytest.mark.parametrize("field", sorted(NOT_SERVED))
def test_fields_that_are_not_served_are_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{field}' is not served") as caught:
        generate(**{field: {"some": "thing"}})

    assert caught.value.field == field
    for harmless in NOT_SERVED[field]:
        assert generate(**{field: harmless}) == generate()


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ({"max_tokens": 0}, "'max_tokens' is wrong"),
        ({"max_tokens": None}, "'max_tokens' is wrong"),
        ({"temperature": 1.5}, "'temperature' is wrong"),
        ({"temperature": "1"}, "'temperature' is wrong"),
        ({"top_k": -1}, "'top_k' is wrong"),
        ({"stop_sequences": [""]}, "'stop_sequences[0]' is wrong"),
        ({"stop_sequences": ["a"] * 17}, "'stop_sequences' is wrong"),
        ({"frequency_penalty": 1}, "the request has no field 'frequency_penalty'"),
        ({"system": [{"type": "image"}]}, "'system[0]' is wrong: only blocks of type 'text'"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "'tools[0].type' is wrong"),
        ({"tools": [{"name": "f"}]}, "'tools[0].input_schema' is required"),
        ({"tools": [{**TOOL, "input_examples": []}]}, "'tools[0]' has no field 'input_examples'"),
        ({"tools": [TOOL, TOOL]}, "two tools have the name 'get_weather'"),
        ({"tool_choice": {"type": "any"}}, "'tool_choice' is only allowed when 'tools' are given"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "g"}}, "'tool_choice' names the function 'g'"),
        ({"tools": [TOOL], "tool_choice": {"type": "perhaps"}}, "its type must be 'auto', 'any', 'tool' or 'none'"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "'tool_choice.name' is required"),
        (
            {
                "tools": [TOOL],
                "tool_choice": {"type": "any"},
                "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
            },
            "demands a tool call, 'output_config.format' another output",
        ),
        ({"output_config": {"format": {"type": "json_schema"}}}, "'output_config.format.schema' is required"),
    ],
)
def test_wrong_fields_are_refused(more: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        generate(**more)

    assert complaint in caught.value.message
