"""OpenAI's request bodies: what is taken, what is refused by name, and what is ignored."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.rest.openai_requests import (
    ChatCompletionRequest,
    CompletionRequest,
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
        ignore_eos=True, logprobs=True, top_logprobs=3, priority=5, n=2, frequency_penalty=1, presence_penalty=-2,
        repetition_penalty=1.1, logit_bias={"5": 1}, bad_words=["x"], min_tokens=3, prompt_logprobs=0, cache_salt="s",
        response_format={"type": "json_object"},
    )  # fmt: skip

    assert request.sampling == lm.SamplingParameters(
        temperature=0.5, top_p=0.9, top_k=40, min_p=0.1, seed=7, max_tokens=9, stop=["\n"], stop_token_ids=[2],
        ignore_eos=True, logprobs=3, n=2, frequency_penalty=1, presence_penalty=-2, repetition_penalty=1.1,
        logit_bias={5: 1}, bad_words=["x"], min_tokens=3, prompt_logprobs=0, guide=lm.Guide(json_object=True),
    )  # fmt: skip
    assert (request.priority, request.cache_salt) == (5, "s")


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


def test_choices_are_outputs_of_one_request_and_the_seed_is_the_requests() -> None:
    (request,) = chat(n=4, seed=7)

    assert (request.sampling.n, request.sampling.seed) == (4, 7)
    assert len(text(prompt=["a", "b"], n=3)) == 2
    assert not chat()[0].sampling.HasField("n")


def test_negative_seed_is_a_seed() -> None:
    assert chat(seed=-1)[0].sampling.seed == 2**64 - 1


def test_echo_asks_for_the_log_probabilities_that_its_lists_show() -> None:
    def asked(**fields: Any) -> tuple[bool, int | None]:
        (request,) = text(**fields)
        given = request.sampling.HasField("prompt_logprobs")
        return request.echo, request.sampling.prompt_logprobs if given else None

    assert asked() == (False, None)
    assert asked(logprobs=3) == (False, None)
    assert asked(echo=True) == (True, None)
    assert asked(echo=True, logprobs=3) == (True, 3)
    assert asked(echo=True, logprobs=3, prompt_logprobs=5) == (True, 5)
    assert asked(prompt_logprobs=0) == (False, 0)


def test_nothing_is_generated_only_for_the_prompts_sake() -> None:
    for request in (text(max_tokens=0, echo=True)[0], text(max_tokens=0, prompt_logprobs=0)[0]):
        assert (request.sampling.max_tokens, request.sampling.prompt_logprobs) == (0, 0)
        assert request.sampling.HasField("max_tokens")
    assert chat(max_completion_tokens=0, prompt_logprobs=2)[0].sampling.prompt_logprobs == 2


def test_field_of_a_later_hops_error_is_called_what_the_client_calls_it() -> None:
    guided = parse_request(ChatCompletionRequest, CHAT | {"guided_regex": "("})
    plain = parse_request(ChatCompletionRequest, CHAT)

    assert guided.field_of("guide") == "guided_regex"
    assert guided.field_of("sampling.guide.regex") == "guided_regex"
    assert guided.field_of("temperature") == "temperature"
    assert plain.field_of("guide") == "guide"
    tooled = parse_request(ChatCompletionRequest, CHAT | {"tools": [{"type": "function", "function": {"name": "f"}}]})
    assert tooled.field_of("messages.tools_json") == "tools"
    assert tooled.field_of("messages.tool_choice") == "tool_choice"
    assert tooled.field_of("messages[1].tool_calls_json") == "messages[1].tool_calls"
    assert tooled.field_of("guide") == "tools"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"echo": True}, "echo"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"best_of": 2}, "best_of"),
    ],
)
def test_what_is_not_served_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput, match=f"'{param}' is not served") as raised:
        chat(**fields)

    assert raised.value.field == param


def test_values_that_ask_for_nothing_and_unknown_fields_are_taken() -> None:
    chat(tools=[], tool_choice="none", logit_bias={}, presence_penalty=0, response_format={"type": "text"}, store=True)
    text(echo=False, best_of=1, suffix=None, frequency_penalty=0.0, user="someone", skip_special_tokens=True)


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
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": "high"}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"bad_words": [""]}, "bad_words[0]"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
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
