"""Sampling parameters as JSON, and what is filled in where a request leaves it open."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.runtimes.generation import GenerationOptions, bad_word_tokens, build_request, parse_options


def parse(value: Any) -> GenerationOptions:
    return parse_options(json.dumps(value).encode())


def test_every_parameter_is_taken() -> None:
    options = parse(
        {
            "temperature": 0.5,
            "top_k": 3,
            "top_p": 0.9,
            "min_p": 0.1,
            "seed": 2**63,
            "max_tokens": 7,
            "stop": ["a", "b"],
            "stop_token_ids": [1, 2],
            "ignore_eos": True,
            "logprobs": 2,
            "repetition_penalty": 1.2,
            "frequency_penalty": -1,
            "presence_penalty": 0.5,
            "logit_bias": {"9": 1, "3": -2.5},
            "bad_words": ["no"],
            "min_tokens": 4,
            "guided_regex": "a+",
        }
    )

    assert options == GenerationOptions(
        *(0.5, 3, 0.9, 0.1, 2**63, 7, ("a", "b"), (1, 2), True, 2, 1.2, -1.0, 0.5),
        logit_bias=((3, -2.5), (9, 1.0)),
        bad_words=("no",),
        min_tokens=4,
        guide=GuideSpec(GuideKind.REGEX, "a+"),
    )


@pytest.mark.parametrize(
    ("parameter", "spec"),
    [
        ({"guided_json": {"type": "object"}}, GuideSpec(GuideKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"guided_json": '{"type": "object"}'}, GuideSpec(GuideKind.JSON_SCHEMA, '{"type": "object"}')),
        ({"guided_grammar": 'start: "a"'}, GuideSpec(GuideKind.GRAMMAR, 'start: "a"')),
        ({"guided_choice": ["yes", "no"]}, GuideSpec(GuideKind.CHOICES, choices=("yes", "no"))),
    ],
)
def test_guides_have_vllm_s_names(parameter: dict[str, Any], spec: GuideSpec) -> None:
    assert parse(parameter).guide == spec


def test_two_guides_are_one_too_many() -> None:
    with pytest.raises(InvalidInput, match="more than one of guided_json, guided_regex"):
        parse({"guided_json": {}, "guided_regex": "a"})


def test_a_bad_word_is_meant_with_and_without_a_space_before_it() -> None:
    def encode(text: str) -> list[int]:
        return list(text.encode())

    assert bad_word_tokens(("ab", " c"), encode) == ((32, 97, 98), (32, 99), (97, 98), (99,))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("x",) * 65, "bad_words has 65 texts; at most 64"),
        (("x" * 65,), "bad_words has a text of 65 characters"),
        (("",), "bad_words has a text of 0 characters"),
        (("  ",), "bad_words has a text of 2 characters; it takes 1 to 64, not all spaces"),
    ],
)
def test_wrong_bad_words_are_named(words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        bad_word_tokens(words, lambda text: [1])


def test_numbers_may_be_texts_one_stop_may_stand_alone_and_null_means_not_set() -> None:
    options = parse({"temperature": "0.1", "top_k": "5", "stop": "END", "ignore_eos": "true", "seed": None})

    assert options == GenerationOptions(temperature=0.1, top_k=5, stop=("END",), ignore_eos=True)


def test_vllm_s_top_k_of_all_tokens_is_ours_too() -> None:
    assert parse({"top_k": -1}).top_k == 0


def test_nothing_given_is_all_defaults() -> None:
    assert parse({}) == GenerationOptions()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"temperatur": 1}', "the unknown 'temperatur'; known are bad_words, frequency_penalty"),
        (b'{"temperature": "hot"}', "'temperature' is \"hot\""),
        (b'{"temperature": true}', "'temperature' is true"),
        (b'{"top_k": 1.5}', "'top_k' is 1.5"),
        (b'{"max_tokens": [1]}', "'max_tokens' is"),
        (b'{"stop": [1]}', "'stop' is"),
        (b'{"stop_token_ids": 1}', "'stop_token_ids' is 1"),
        (b'{"ignore_eos": "maybe"}', "'ignore_eos' is \"maybe\""),
        (b'{"seed": 1e400}', "'seed' is"),
        (b'{"logit_bias": {"x": 1}}', "'logit_bias' is"),
        (b'{"logit_bias": [1]}', "'logit_bias' is"),
        (b'{"guided_regex": {}}', "'guided_regex' is"),
        (b'{"guided_choice": [1]}', "'guided_choice' is"),
        (b'{"n": 2}', "the unknown 'n'"),
    ],
)
def test_what_is_wrong_is_named(text: bytes, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_options(text)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first draw pays for the alphabet of all characters
@given(
    st.binary(max_size=60)
    | st.dictionaries(st.sampled_from(["top_k", "stop", "seed", "x"]), st.integers() | st.text()).map(
        lambda d: json.dumps(d).encode()
    )
)
def test_nothing_but_invalid_input_comes_out(text: bytes) -> None:
    try:
        parse_options(text)
    except InvalidInput as error:
        assert error.message


def build(num_prompt_tokens: int, options: GenerationOptions) -> Any:
    return build_request("id", (1,) * num_prompt_tokens, options, max_context_tokens=10, draw_seed=lambda: 99)


def test_an_open_seed_is_drawn_and_a_given_one_kept() -> None:
    assert build(1, GenerationOptions()).sampling.seed == 99
    assert build(1, GenerationOptions(seed=0)).sampling.seed == 0


def test_an_open_output_takes_what_is_left_of_the_context() -> None:
    assert build(4, GenerationOptions()).max_tokens == 6
    assert build(4, GenerationOptions(max_tokens=2)).max_tokens == 2
    assert build(12, GenerationOptions()).max_tokens == 1  # for the engine to refuse
