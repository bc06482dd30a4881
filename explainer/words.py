"""A prompt as words that can be left out, and what is left when some are.

Words are what white space separates; only those in explainable segments count. Positions are code points of the whole
prompt. What a template added stays as it is, always.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a prompt; the words of an explainable one may be left out."""

    text: str
    explainable: bool


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the prompt: `length` code points from `start`."""

    text: str
    start: int

    @property
    def length(self) -> int:
        return len(self.text)


class WordPrompt:
    """A prompt that can be had with any of its words missing."""

    def __init__(self, segments: Iterable[Segment]) -> None:
        self.words: list[Word] = []
        self._parts: list[str | _Passage] = []
        texts: list[str] = []
        start = 0
        for segment in segments:
            texts.append(segment.text)
            if segment.explainable:
                passage = _Passage(segment.text)
                self.words.extend(Word(word, start + offset) for word, offset in passage.placed_words())
                self._parts.append(passage)
            else:
                self._parts.append(segment.text)
            start += len(segment.text)
        self.text = "".join(texts)

    def with_words(self, present: Iterable[bool]) -> str:
        """The prompt with those words that are `present`, one entry a word.

        Between two words that stay, one gap stays: the one with the most line breaks, so that paragraphs stay apart.
        The space before the first word and after the last of a segment stays as well.
        """
        flags = iter(present)
        return "".join(part if isinstance(part, str) else part.with_words(flags) for part in self._parts)


class _Passage:
    """An explainable segment: words, and the gaps of white space before, between and after them."""

    def __init__(self, text: str) -> None:
        self._words = _WORD.findall(text)
        self._gaps = _WORD.split(text)  # one more than words

    def placed_words(self) -> Iterator[tuple[str, int]]:
        """Each word with its offset."""
        offset = 0
        for gap, word in zip(self._gaps, self._words, strict=False):
            yield word, offset + len(gap)
            offset += len(gap) + len(word)

    def with_words(self, present: Iterator[bool]) -> str:
        """The text with those words for which `present` gives True; takes one entry a word from it."""
        parts: list[str] = []
        pending: list[str] = []  # gaps since the last word that stays
        for gap, word in zip(self._gaps, self._words, strict=False):
            pending.append(gap)
            if next(present):
                parts += (max(pending, key=_num_breaks) if parts else pending[0], word)
                pending = []
        if not parts and self._words:
            parts.append(self._gaps[0])
        return "".join(parts) + self._gaps[-1]


def _num_breaks(gap: str) -> int:
    return gap.count("\n")
