"""Structured outputs, tools, choices and log-probabilities by the stock client, through the whole mesh."""

from __future__ import annotations

import json
from typing import Any

import openai
import pydantic
import pytest

from tests.e2e.running import Mesh

QUESTION: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


class Place(pydantic.BaseModel):
    """What the model is asked to fill in."""

    city: str = pydantic.Field(max_length=20)
    is_capital: bool


@pytest.fixture
def client(mesh: Mesh) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{mesh.url}/v1", api_key="none", timeout=60, max_retries=0)


def test_an_answer_parses_into_a_pydantic_model(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="smollm2", messages=QUESTION, response_format=Place, temperature=0, max_tokens=80
    )

    place = answer.choices[0].message.parsed
    assert isinstance(place, Place)
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_tool_is_called_with_arguments_that_fit(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=QUESTION, tools=[WEATHER], tool_choice=choice, temperature=0, max_tokens=120
    )

    [*_, call] = answer.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "get_weather"
    arguments = json.loads(call.function.arguments)
    assert arguments["unit"] in ("C", "F") and isinstance(arguments["city"], str)
    assert answer.choices[0].message.content is None


def test_a_tool_s_streamed_arguments_join_to_those_of_the_whole(client: openai.OpenAI) -> None:
    asked: Any = {
        "model": "smollm2", "messages": QUESTION, "tools": [WEATHER], "temperature": 0, "max_tokens": 120,
        "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    pieces = [
        part
        for chunk in client.chat.completions.create(**asked, stream=True)
        for part in chunk.choices[0].delta.tool_calls or []
    ]

    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    names = [part.function.name for part in pieces if part.function and part.function.name]
    assert names == ["get_weather"]
    assert "".join(part.function.arguments or "" for part in pieces if part.function) == call.function.arguments
    assert len(pieces) > 1


def test_tools_that_are_not_needed_leave_an_answer_in_words(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm2", messages=QUESTION, tools=[WEATHER], tool_choice="none", temperature=0, max_tokens=20
    )

    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


def test_choices_differ_and_repeat_with_their_seed(client: openai.OpenAI) -> None:
    def ask() -> list[str | None]:
        answer = client.chat.completions.create(
            model="smollm2", messages=QUESTION, n=3, seed=4, temperature=1, max_tokens=16
        )
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first


def test_an_echo_has_the_log_probabilities_of_the_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm2", prompt="The capital of France is", echo=True, logprobs=1, max_tokens=1, temperature=0
    )

    choice = answer.choices[0]
    assert choice.text == "The capital of France is Paris"
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
    assert choice.logprobs.tokens == ["The", " capital", " of", " France", " is", " Paris"]
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in choice.logprobs.token_logprobs[1:])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strin"}}}),
        ("logit_bias", {"49152": 1}),
        ("frequency_penalty", 3),
        ("n", 0),
    ],
)
def test_what_cannot_be_is_refused_by_the_name_that_the_client_used(
    client: openai.OpenAI, field: str, value: Any
) -> None:
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="smollm2", messages=QUESTION, max_tokens=4, extra_body={field: value})

    assert refusal.value.param == field
