"""Prompts of exactly so many tokens, no two alike.

Words that are one token each, in random order: their number is the number of tokens in every server, whatever its
tokenizer does at the seams, and a prefix cache finds nothing that the workload did not put there.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from predictor.llm.tokenizer import Tokenizer

TEXT = Path(__file__).parents[1] / "pride_and_prejudice.txt"


def one_token_words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of `text`, lower case, that are one token at the beginning of a prompt and one after a space."""
    words = sorted(set(re.findall(r"\b[a-z]{3,}\b", text)))
    return [word for word in words if all(len(tokenizer.encode(form)) == 1 for form in (word, f" {word}"))]


class PromptWriter:
    """Writes prompts from `words`, one token each. The same seed gives the same prompts."""

    def __init__(self, words: Sequence[str], seed: str) -> None:
        self._words = words
        self._random = random.Random(seed)
        self._written: set[str] = set()

    def write(self, num_tokens: int, prefix: str = "") -> str:
        """A prompt that nobody had before: `prefix`, and `num_tokens` tokens after it."""
        while True:
            prompt = " ".join([prefix] * bool(prefix) + self._random.choices(self._words, k=num_tokens))
            if prompt not in self._written:
                self._written.add(prompt)
                return prompt
