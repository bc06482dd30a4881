"""Guides over the real vocabulary of SmolLM2, and over a small one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.small_tokenizers import small_tokenizer


@pytest.fixture(scope="session")
def tokenizer(smollm2_gguf: Path) -> Tokenizer:
    return read_tokenizer(smollm2_gguf)


@pytest.fixture(scope="session")
def guides(tokenizer: Tokenizer) -> Iterator[LlguidanceGuides]:
    maker = LlguidanceGuides(guide_vocabulary(tokenizer))
    yield maker
    maker.close()


@pytest.fixture(scope="session")
def bytes_tokenizer() -> Tokenizer:
    """Every byte is a token, and a few merges are."""
    return small_tokenizer()


@pytest.fixture(scope="session")
def bytes_guides(bytes_tokenizer: Tokenizer) -> Iterator[LlguidanceGuides]:
    maker = LlguidanceGuides(guide_vocabulary(bytes_tokenizer))
    yield maker
    maker.close()
