"""Prompts have the promised number of tokens, by the tokenizer that serves them, and no two are alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.llm.prompts import TEXT, PromptWriter, one_token_words
from bench.llm.workloads import WARM_UP, WORKLOADS, Workload
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm2_gguf: Path) -> Tokenizer:
    return read_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def words(tokenizer: Tokenizer) -> list[str]:
    return one_token_words(tokenizer, TEXT.read_text(encoding="utf-8"))


def test_the_text_has_words_enough_for_prompts_that_differ_early(words: list[str]) -> None:
    assert len(words) > 200


@pytest.mark.parametrize("workload", [*WORKLOADS, WARM_UP], ids=lambda workload: workload.name)
def test_every_prompt_of_a_workload_has_the_promised_tokens(
    workload: Workload, tokenizer: Tokenizer, words: list[str]
) -> None:
    requests = workload.requests(PromptWriter(words, "seed"))

    assert [len(tokenizer.encode(request.prompt)) for request in requests] == [r.prompt_tokens for r in requests]


def test_no_prompt_comes_twice_and_each_seed_gives_its_own(words: list[str]) -> None:
    first = PromptWriter(words, "a").write(30)
    writer, other = PromptWriter(words, "a"), PromptWriter(words, "b")
    again, others = [writer.write(30) for _ in range(300)], [other.write(30) for _ in range(300)]

    assert again[0] == first
    assert len({*again, *others}) == 600


def test_a_prompt_that_was_written_is_not_written_again() -> None:
    writer = PromptWriter(["one", "two"], "seed")

    assert {writer.write(1), writer.write(1)} == {"one", "two"}


def test_prefixes_are_shared_in_turn_and_nothing_else_is(words: list[str]) -> None:
    workload = Workload("p", 2, 6, (5,), (1,), num_prefixes=2, prefix_tokens=10)

    prompts = [request.prompt.split() for request in workload.requests(PromptWriter(words, "seed"))]

    assert len({tuple(prompt[:10]) for prompt in prompts}) == 2
    assert all(prompts[i][:10] == prompts[i % 2][:10] for i in range(6))
    assert len({tuple(prompt[10:]) for prompt in prompts}) == 6
