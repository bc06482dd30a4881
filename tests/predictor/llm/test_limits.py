"""Each wrong field is refused with a sentence that names the field, the value and the limit."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mesh.errors import InvalidInput, NotFound, PromptTooLong
from predictor.llm.limits import EngineLimits
from predictor.llm.sequence import ScoreRequest
from predictor.llm.step import SamplingParams
from tests.predictor.llm.engines import generation

LIMITS = EngineLimits(vocab_size=300, max_context_tokens=64)


def test_what_is_at_its_limits_is_taken() -> None:
    LIMITS.check(
        generation(
            prompt=(0, 299),
            max_tokens=62,
            sampling=SamplingParams(2.0, 2**31 - 1, 1.0, 1.0, 2**64 - 1, 20),
            stop=("x" * 256,) * 16,
            stop_token_ids=(0,) * 64,
            continue_from=(1,) * 62,
            priority=-1000,
            cache_salt="s" * 256,
            min_tokens=62,
            bad_words=((299,) * 64,) * 192,
        )
    )
    LIMITS.check(generation(prompt=(1,) * 64, max_tokens=0, num_prompt_logprobs=20))
    LIMITS.check(generation(n=128, sample_index=2**31 - 1 - 128))
    LIMITS.check(
        generation(sampling=SamplingParams(repetition_penalty=100.0, frequency_penalty=-2.0, presence_penalty=2.0))
    )
    LIMITS.check(generation(sampling=SamplingParams(logit_bias=((0, -100.0), (299, 100.0)))))
    LIMITS.check(ScoreRequest("s", (0,), (299,) * 63))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt_token_ids": ()}, "prompt is empty; give at least one token"),
        ({"prompt_token_ids": (1, 300)}, "prompt has token id 300; the vocabulary is 0 to 299"),
        ({"prompt_token_ids": (-1,)}, "prompt has token id -1; the vocabulary is 0 to 299"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be 1 to 64"),
        ({"max_tokens": 2**31}, "max_tokens is 2147483648; it must be 1 to 64"),
        ({"stop": ("x",) * 1000}, "stop has 1000 strings; at most 16 are taken"),
        ({"stop": ("x" * 257,)}, "stop has 257 characters in one string; at most 256 are taken"),
        ({"stop": ("a", "")}, "stop has an empty string, which would end every output at once"),
        ({"stop_token_ids": (300,)}, "stop_token_ids has token id 300; the vocabulary is 0 to 299"),
        ({"stop_token_ids": (1,) * 65}, "stop_token_ids has 65 tokens; at most 64 are taken"),
        ({"min_tokens": 9}, "min_tokens is 9; it must be 0 to 8"),
        ({"min_tokens": -1}, "min_tokens is -1; it must be 0 to 8"),
        ({"n": 0}, "n is 0; it must be 1 to 128"),
        ({"n": 129}, "n is 129; it must be 1 to 128"),
        ({"sample_index": -1}, "sample_index is -1; it must be 0 to 2147483519"),
        ({"n": 2, "continue_from": (1,)}, "n is 2; it must be 1 where continue_from is given"),
        ({"n": 2, "max_tokens": 0, "num_prompt_logprobs": 0}, "n is 2; it must be 1 where max_tokens is 0"),
        ({"bad_words": ((1,),) * 193}, "bad_words has 193 token sequences; at most 192 are taken"),
        ({"bad_words": ((1,) * 65,)}, "bad_words has 65 tokens in one word; at most 64 are taken"),
        ({"bad_words": ((),)}, "bad_words has an empty one, which stands in every output"),
        ({"bad_words": ((300,),)}, "bad_words has token id 300; the vocabulary is 0 to 299"),
        ({"continue_from": (1,) * 9}, "continue_from has 9 tokens; at most 8 are taken"),
        ({"continue_from": (999,)}, "continue_from has token id 999; the vocabulary is 0 to 299"),
        ({"priority": 1001}, "priority is 1001; it must be -1000 to 1000"),
        ({"cache_salt": "s" * 257}, "cache_salt has 257 characters; at most 256 are taken"),
    ],
)
def test_a_wrong_field_of_a_generation_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LIMITS.check(replace(generation(max_tokens=8), **changes))

    assert caught.value.message == sentence
    assert caught.value.field is not None
    assert caught.value.field in {"prompt", *changes}


@pytest.mark.parametrize("count", [-2, 21])
def test_a_wrong_number_of_prompt_logprobs_is_named(count: int) -> None:
    with pytest.raises(InvalidInput, match=f"prompt_logprobs is {count}; it must be -1 to 20"):
        LIMITS.check(generation(num_prompt_logprobs=count))


def test_more_outputs_than_the_engine_holds_are_refused_at_once() -> None:
    limits = EngineLimits(vocab_size=300, max_context_tokens=64, max_num_outputs=5)

    limits.check(generation(n=5))
    with pytest.raises(InvalidInput, match="n is 6; it must be 1 to 5"):
        limits.check(generation(n=6))


def test_an_adapter_that_is_not_loaded_is_not_found() -> None:
    with pytest.raises(NotFound, match="adapter 'french' is not loaded"):
        LIMITS.check(generation(adapter="french"))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"temperature": math.nan}, "temperature is nan; it must be 0.0 to 2.0"),
        ({"temperature": math.inf}, "temperature is inf; it must be 0.0 to 2.0"),
        ({"temperature": -0.1}, "temperature is -0.1; it must be 0.0 to 2.0"),
        ({"top_k": -1}, "top_k is -1; it must be 0 to 2147483647"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_p": math.nan}, "top_p is nan; it must be 0.0 to 1.0"),
        ({"min_p": 1.5}, "min_p is 1.5; it must be 0.0 to 1.0"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be 0 to 18446744073709551615"),
        ({"seed": -1}, "seed is -1; it must be 0 to 18446744073709551615"),
        ({"num_logprobs": 21}, "logprobs is 21; it must be -1 to 20"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0 and at most 100.0"),
        ({"repetition_penalty": 101.0}, "repetition_penalty is 101.0; it must be 0.0 to 100.0"),
        ({"repetition_penalty": math.nan}, "repetition_penalty is nan; it must be 0.0 to 100.0"),
        ({"frequency_penalty": 2.1}, "frequency_penalty is 2.1; it must be -2.0 to 2.0"),
        ({"presence_penalty": -2.1}, "presence_penalty is -2.1; it must be -2.0 to 2.0"),
        ({"logit_bias": ((300, 1.0),)}, "logit_bias has token id 300; the vocabulary is 0 to 299"),
        ({"logit_bias": ((7, 100.5),)}, "logit_bias[7] is 100.5; it must be -100.0 to 100.0"),
        ({"logit_bias": ((7, math.nan),)}, "logit_bias[7] is nan; it must be -100.0 to 100.0"),
        ({"logit_bias": ((7, 1.0),) * 1025}, "logit_bias has 1025 entries; at most 1024 are taken"),
    ],
)
def test_a_wrong_sampling_parameter_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LIMITS.check(generation(sampling=replace(SamplingParams(), **changes)))

    assert caught.value.message == sentence


def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(PromptTooLong, match="prompt has 64 tokens and the shortest output adds 1; the model takes 64"):
        LIMITS.check(generation(prompt=(1,) * 64, max_tokens=2**31))
    with pytest.raises(PromptTooLong, match="prompt has 60 tokens and max_tokens adds 5; the model takes 64 together"):
        LIMITS.check(generation(prompt=(1,) * 60, max_tokens=5))
    with pytest.raises(PromptTooLong, match="prefix has 60 tokens and target adds 5"):
        LIMITS.check(ScoreRequest("s", (1,) * 60, (1,) * 5))


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (ScoreRequest("s", (), (1,)), "prefix is empty; give at least one token"),
        (ScoreRequest("s", (1,), ()), "target is empty; give at least one token"),
        (ScoreRequest("s", (1,), (300,)), "target has token id 300; the vocabulary is 0 to 299"),
    ],
)
def test_a_wrong_field_of_a_score_is_named(request_: ScoreRequest, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        LIMITS.check(request_)

    assert caught.value.message == sentence
