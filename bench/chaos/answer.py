"""What a client got for a request, in a form in which two answers can be compared. Knows no protocol."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

# Kernels give a token the same bits in any company, so what differs is only how protocols write numbers.
_TOLERANCE = 1e-6


class Failed(Exception):
    """The request failed; the message says how."""


@dataclass(frozen=True, slots=True)
class Output:
    """One choice. numbers: log-probabilities, offsets or tensor values, in order. calls: tools' names and arguments."""

    text: str = ""
    token_ids: tuple[int, ...] = ()
    numbers: tuple[float, ...] = ()
    finish_reason: str = ""
    calls: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """outputs: by their index. Tokens that came from a cache are left out: they depend on the replica."""

    outputs: tuple[Output, ...]
    prompt_tokens: int = 0
    output_tokens: int = 0


@dataclass(slots=True)
class Growing:
    """An output that is still coming in."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    numbers: list[float] = field(default_factory=list)
    finish_reason: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)

    def add_call(self, index: int, name: str, arguments: str) -> None:
        """A part of tool call `index`."""
        call = self.calls.setdefault(index, ["", ""])
        call[0] += name
        call[1] += arguments

    def whole(self) -> Output:
        calls = tuple((name, arguments) for _, (name, arguments) in sorted(self.calls.items()))
        return Output(self.text, tuple(self.token_ids), tuple(self.numbers), self.finish_reason, calls)


def difference(expected: Answer, got: Answer) -> str | None:
    """The first thing in which `got` is not what it should be, in words; None when they are equal."""
    if len(expected.outputs) != len(got.outputs):
        return f"{len(expected.outputs)} outputs expected, {len(got.outputs)} came"
    for index, (one, other) in enumerate(zip(expected.outputs, got.outputs, strict=True)):
        for name in ("token_ids", "text", "finish_reason", "calls"):
            if getattr(one, name) != getattr(other, name):
                return f"output {index}: {name} {_where(getattr(one, name), getattr(other, name))}"
        if len(one.numbers) != len(other.numbers) or not all(
            math.isclose(a, b, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE)
            for a, b in zip(one.numbers, other.numbers, strict=True)
        ):
            return f"output {index}: numbers {_where(one.numbers, other.numbers)}"
    for name in ("prompt_tokens", "output_tokens"):
        if getattr(expected, name) != getattr(got, name):
            return f"{name} {getattr(expected, name)} expected, {getattr(got, name)} came"
    return None


def _where(expected: Sequence[object], got: Sequence[object]) -> str:
    """ "differ at 7 of 20: 'abc' expected, 'abd' came"."""
    pairs = zip(expected, got, strict=False)
    place = next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(got)))
    shown = slice(place, place + 12)
    return f"differ at {place} of {len(expected)}: {expected[shown]!r} expected, {got[shown]!r} came"
