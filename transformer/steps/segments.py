"""Which parts of a rendered prompt are what somebody said, and which the template added.

Templates may trim, repeat, reorder or escape contents, so searching for them would guess. Instead the conversation is
rendered a second time with marks around each content: when that rendering without its marks is the plain one, the
marks stand where the contents are. Marks are private-use characters, which the conversation must not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from transformer.steps.prompt import Message, Segment

# First characters of 0x1000-wide ranges in the private-use planes 15 and 16.
_BASES = (*range(0xF0000, 0xFF000, 0x1000), *range(0x100000, 0x10F000, 0x1000))


@dataclass(frozen=True, slots=True)
class Marks:
    """A pair of characters that opens and closes a content."""

    opening: str
    closing: str


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Code points `start` to `end` (exclusive) of a text."""

    start: int
    end: int


def choose_marks(texts: Iterable[str]) -> Marks | None:
    """Marks that occur in none of `texts`; None when every private-use range is taken."""
    used = {ord(char) & ~0xFFF for text in texts for char in re.findall("[\U000f0000-\U0010ffff]", text)}
    base = next((base for base in _BASES if base not in used), None)
    return None if base is None else Marks(chr(base), chr(base + 1))


def mark(message: Message, marks: Marks) -> Message:
    """`message` with marks around its content, inside of outer white space, so that trimming still finds that."""
    core = message.content.strip()
    if not core:
        return message
    return replace(message, content=message.content.replace(core, f"{marks.opening}{core}{marks.closing}", 1))


def find_spans(marked: str, plain: str, marks: Marks) -> list[Span] | None:
    """Where the contents stand in `plain`; None when `marked` is not `plain` with marks, so nothing is known."""
    spans: list[Span] = []
    pieces: list[str] = []
    position = 0
    opened: int | None = None
    for piece in re.split(f"([{marks.opening}{marks.closing}])", marked):
        if piece == marks.opening and opened is None:
            opened = position
        elif piece == marks.closing and opened is not None:
            spans.append(Span(opened, position))
            opened = None
        elif piece in (marks.opening, marks.closing):
            return None
        else:
            pieces.append(piece)
            position += len(piece)
    return spans if opened is None and "".join(pieces) == plain else None


def split(prompt: str, spans: Sequence[Span]) -> list[Segment]:
    """`prompt` in parts, of which those under `spans` (which do not overlap) are explainable."""
    segments: list[Segment] = []
    position = 0
    for span in sorted(spans):
        segments.append(Segment(prompt[position : span.start], explainable=False))
        segments.append(Segment(prompt[span.start : span.end], explainable=True))
        position = span.end
    segments.append(Segment(prompt[position:], explainable=False))
    return [segment for segment in segments if segment.text]
