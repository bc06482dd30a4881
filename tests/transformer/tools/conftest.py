"""Fixtures of the tool tests: the library that gives grammars their meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(scope="session")
def compile_grammar() -> Callable[[str], Any]:  # Any: llguidance has no place in the transformer's environment
    """A matcher at the beginning of a grammar, over bytes as tokens; its get_error() says what is wrong with it."""
    llguidance = pytest.importorskip("llguidance", reason="the grammar library belongs to the predictor")
    tokenizer = llguidance.LLTokenizer("byte")
    return lambda grammar: llguidance.LLMatcher(tokenizer, grammar)


@pytest.fixture(scope="session")
def accepts(compile_grammar: Callable[[str], Any]) -> Callable[[str, str], bool]:
    """Whether a grammar takes a text as a whole; a grammar that is none is an error."""

    def accept(grammar: str, text: str) -> bool:
        matcher = compile_grammar(grammar)
        assert not matcher.is_error(), matcher.get_error()
        tokens = list(text.encode())
        return matcher.try_consume_tokens(tokens) == len(tokens) and bool(matcher.is_accepting())

    return accept
