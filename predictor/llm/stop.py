"""Finds stop strings in text that arrives in pieces, and holds back what may become one.

One automaton per stop string (Knuth, Morris, Pratt, 1977) reads character by character, so the outcome does not depend
on how the text was cut. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Passes text through up to the first stop string that is complete; of two that end together, the longer counts."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._automata = [_Automaton(text) for text in stop]
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take more text; return what is certain to be no part of a stop string. After a match there is no more."""
        if self.matched is not None:
            return ""
        if not self._automata:
            return text
        self._held += text
        for index, char in enumerate(text, start=len(self._held) - len(text) + 1):
            complete = [a.pattern for a in self._automata if a.advance(char)]
            if complete:
                self.matched = max(complete, key=len)
                return self._take(index - len(self.matched), drop_rest=True)
        return self._take(len(self._held) - max(a.state for a in self._automata))

    def flush(self) -> str:
        """Return what was held back: the text is over, and no stop string came of it."""
        return self._take(len(self._held))

    def _take(self, end: int, *, drop_rest: bool = False) -> str:
        taken, rest = self._held[:end], self._held[end:]
        self._held = "" if drop_rest else rest
        return taken


class _Automaton:
    """`state` is the length of the longest beginning of the pattern that the text read so far ends with."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.state = 0
        self._fallback = [0] * len(pattern)  # for each state above 0, the next shorter candidate
        for index in range(1, len(pattern)):
            state = self._fallback[index - 1]
            while state and pattern[index] != pattern[state]:
                state = self._fallback[state - 1]
            self._fallback[index] = state + (pattern[index] == pattern[state])

    def advance(self, char: str) -> bool:
        """Read one character; True when the pattern is complete, which is the end of the automaton's use."""
        while self.state and self.pattern[self.state] != char:
            self.state = self._fallback[self.state - 1]
        self.state += self.pattern[self.state] == char
        return self.state == len(self.pattern)
