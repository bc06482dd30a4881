"""OpenAI's request bodies: what is taken, what is refused by name, and what is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.openai_requests import (
    ChatCompletionRequest,
    CompletionRequest,
    derived_seed,
    parse_request,
)
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

CHAT: dict[str, Any] = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "chat", "prompt": "Once"}


def chat(**fields: Any) -> list[lm.GenerateRequest]:
    return parse_request(ChatCompletionRequest, CHAT | fields).to_generate()


def text(**fields: Any) -> list[lm.GenerateRequest]:
    return parse_request(CompletionRequest, TEXT | fields).to_generate()


def test_every_sampling_field_arrives() -> None:
    (request,) = chat(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, max_tokens=9, stop="\n", stop_token_ids=[2],
        ignore_eos=True, logprobs=True, top_logprobs=3, priority=5,
    )  # fmt: skip

    assert request.sampling == lm.SamplingParameters(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, max_tokens=9, stop=["\n"], stop_token_ids=[2],
        ignore_eos=True, logprobs=3,
    )  # fmt: skip
    assert request.priority == 5


def test_fields_that_are_not_set_stay_unset() -> None:
    (request,) = chat(temperature=None, stop=None, stream=None, user="someone")

    assert request.sampling == lm.SamplingParameters()


def test_newer_name_of_max_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=6)[0].sampling.max_tokens == 6


def test_text_completions_have_openais_default_length() -> None:
    assert text()[0].sampling.max_tokens == 16


def test_parts_of_a_message_are_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    (request,) = chat(messages=[{"role": "developer", "content": parts}])

    assert request.messages.messages[0] == lm.ChatMessage(role="system", content="ab")


def test_prompts_of_all_four_kinds() -> None:
    assert [request.text for request in text(prompt=["a", "b"])] == ["a", "b"]
    assert [list(request.token_ids.ids) for request in text(prompt=[1, 2])] == [[1, 2]]
    assert [list(request.token_ids.ids) for request in text(prompt=[[1], [2, 3]])] == [[1], [2, 3]]


def test_choices_have_seeds_of_their_own_and_the_first_has_the_requests() -> None:
    seeds = [request.sampling.seed for request in chat(n=4, seed=7)]

    assert seeds[0] == 7
    assert len(set(seeds)) == 4
    assert not chat(n=2)[1].sampling.HasField("seed")


def test_negative_seed_is_a_seed() -> None:
    assert derived_seed(-1, 0) == 2**64 - 1
    assert 0 <= derived_seed(-(2**63), 127) < 2**64


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"modalities": ["audio"]}, "modalities"),
    ],
)
def test_what_is_not_served_yet_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{param}' is not served yet") as raised:
        chat(**fields)

    assert raised.value.field == param


def test_values_that_ask_for_nothing_and_unknown_fields_are_taken() -> None:
    chat(tools=[], tool_choice="none", logit_bias={}, presence_penalty=0, response_format={"type": "text"}, store=True)
    text(echo=False, best_of=1, suffix=None, frequency_penalty=0.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"messages": ["hi"]}, "messages[0]"),
        ({"model": 7}, "model"),
        ({"model": "m" * 257}, "model"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**40}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": 7}, "stop"),
        ({"seed": 2**65}, "seed"),
        ({"stream": "yes"}, "stream"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"stream_options": {"include_usage": "x"}}, "stream_options.include_usage"),
    ],
)
def test_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        chat(**fields)

    assert raised.value.field == param
    assert f"'{param}'" in raised.value.message or param in raised.value.message


@pytest.mark.parametrize(
    "prompt", [None, 7, [], [[]], [""] * 129, [1, "a"], [1.5], [True], [-1], {"a": 1}, [[1], "a"], [None]]
)
def test_wrong_prompt_is_one_sentence(prompt: Any) -> None:
    with pytest.raises(InvalidInput, match="'prompt' must be a string") as raised:
        text(prompt=prompt)

    assert raised.value.field == "prompt"


def test_missing_fields_are_required() -> None:
    with pytest.raises(InvalidInput, match="'model' is required"):
        parse_request(ChatCompletionRequest, {"messages": CHAT["messages"]})
    with pytest.raises(InvalidInput, match="'prompt' is required"):
        parse_request(CompletionRequest, {"model": "chat"})


def test_number_of_choices_is_bounded_over_all_prompts() -> None:
    with pytest.raises(InvalidInput, match="the limit is 128"):
        text(prompt=["a"] * 64, n=3)
