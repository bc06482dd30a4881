"""What a policy is told of a request to a language model."""

from __future__ import annotations

from mesh.balancing import ANY
from mesh.request_hints import (
    MAX_READ_BYTES,
    USUAL_OUTPUT_TOKENS,
    estimated_tokens,
    generation_hint,
    scoring_hint,
    serialized_generation_hint,
)
from mesh.v1 import language_model_pb2 as lm

TEXT = "You are a helpful assistant. " * 100


def said(*contents: str, tools: str = "") -> lm.GenerateRequest:
    messages = [lm.ChatMessage(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(contents)]
    return lm.GenerateRequest(messages=lm.ChatMessages(messages=messages, tools_json=tools))


def test_a_conversation_that_goes_on_starts_with_the_hashes_of_what_was_said() -> None:
    before = list(generation_hint(said(TEXT, "Yes.")).prefix)
    after = list(generation_hint(said(TEXT, "Yes.", TEXT)).prefix)

    assert len(before) == 11
    assert after[: len(before)] == before
    assert len(after) > len(before)


def test_who_said_it_and_with_which_tools_counts() -> None:
    alone = set(generation_hint(said(TEXT)).prefix)

    assert alone.isdisjoint(generation_hint(said("", TEXT)).prefix)
    assert alone.isdisjoint(generation_hint(said(TEXT, tools='[{"type": "function"}]')).prefix)


def test_other_salts_and_versions_share_nothing() -> None:
    hints = [
        generation_hint(lm.GenerateRequest(text=TEXT, cache_salt=salt, model_version=version))
        for salt, version in [("", ""), ("a", ""), ("", "a"), ("a", "a")]
    ]

    assert len({value for hint in hints for value in hint.prefix}) == 4 * len(hints[0].prefix)


def test_scored_items_are_known_by_the_first() -> None:
    request = lm.ScoreRequest(items=[lm.ScoreRequest.Item(text=TEXT, target_text="yes")] * 3)

    assert scoring_hint(request).prefix == generation_hint(lm.GenerateRequest(text=TEXT)).prefix
    assert scoring_hint(request).cost > 3 * len(TEXT) / 4
    assert scoring_hint(lm.ScoreRequest()).prefix == ()


def test_tokens_are_reckoned_from_prompt_and_limit_for_each_output() -> None:
    limited = lm.SamplingParameters(max_tokens=50, n=3)

    assert estimated_tokens(lm.GenerateRequest(text="x" * 400, sampling=limited)) == 1 + 100 + 150
    assert estimated_tokens(lm.GenerateRequest(token_ids=lm.TokenIds(ids=range(70)), sampling=limited)) == 1 + 70 + 150
    assert estimated_tokens(lm.GenerateRequest()) == 1 + USUAL_OUTPUT_TOKENS
    assert estimated_tokens(said(TEXT)) >= 1 + len(TEXT) / 4 + USUAL_OUTPUT_TOKENS
    assert estimated_tokens(lm.GenerateRequest(sampling=lm.SamplingParameters(max_tokens=-5, n=-3))) == 1


def test_bytes_say_the_same_while_they_are_few_and_a_message() -> None:
    request = lm.GenerateRequest(text=TEXT)

    assert serialized_generation_hint(request.SerializeToString()) == generation_hint(request)
    large = serialized_generation_hint(lm.GenerateRequest(text="x" * MAX_READ_BYTES).SerializeToString())
    assert (large.prefix, large.cost > MAX_READ_BYTES / 4) == ((), True)
    assert serialized_generation_hint(b"\xff\xff") is ANY


def test_nothing_in_a_request_makes_it_raise() -> None:
    assert generation_hint(lm.GenerateRequest()).prefix == []
    assert generation_hint(lm.GenerateRequest(token_ids=lm.TokenIds(ids=[-(2**31), 2**31 - 1] * 40))).prefix
    assert generation_hint(said(*["\x00\ud7ff"] * 1000)).prefix
