"""Reads calls out of an output as it comes: a call is {"name": …, <key>: {…}} between an opening and a closing.

Trusts nothing: an output may have been written without a grammar. What does not begin as a call is text, to the last
character. Once its arguments have begun a call stands as it was sent, whole or broken. Outputs that a grammar of the
same format held to it are read without loss.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from transformer.tools import json_text
from transformer.tools.declarations import NAME
from transformer.tools.format import CallPart, Parsed

_SPACE = " \t\r\n"
# Bounded, so that what is held back is: longer white space inside a call's head is no call.
_GAP = r"[ \t\r\n]{0,16}"


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """opening, closing: texts around a call's JSON; without an opening a call can only be the output's beginning."""

    opening: str
    closing: str
    arguments_key: str


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A regular expression that also knows the beginnings of what it matches."""

    whole: re.Pattern[str]
    beginning: re.Pattern[str]

    @classmethod
    def of(cls, atoms: Iterable[str]) -> _Pattern:
        """Of expressions that follow each other; each matches one character, or a repetition of one."""
        atoms = list(atoms)
        beginning = ""
        for atom in reversed(atoms):
            beginning = f"{atom}(?:{beginning})?"
        return cls(re.compile("".join(atoms)), re.compile(f"(?:{beginning})?"))


class CallParser:
    """A state machine over `_buffer`, what was pushed and is not decided; a state is the method that reads on.

    A state returns False when it needs more output. Implements OutputParser.
    """

    def __init__(self, syntax: CallSyntax) -> None:
        self.num_complete = 0
        self._syntax = syntax
        self._head = _head(syntax)
        self._buffer = ""
        self._space = ""  # of text that a call may follow; it is text only when more text does
        self._follows_call = False
        self._is_cut_call = False  # what is undecided at the end can only be the beginning of one more call
        self._num_calls = 0
        self._arguments = _JsonObject()
        self._text: list[str] = []
        self._parts: list[CallPart] = []
        self._state = self._read_text if syntax.opening else self._read_head

    def push(self, text: str) -> Parsed:
        self._buffer += text
        return self._read(is_final=False)

    def finish(self) -> Parsed:
        return self._read(is_final=True)

    def _read(self, is_final: bool) -> Parsed:
        while self._state(is_final):
            pass
        parsed = Parsed("".join(self._text), tuple(self._parts))
        self._text, self._parts = [], []
        return parsed

    def _read_text(self, is_final: bool) -> bool:
        if self._follows_call:
            self._buffer = self._buffer.lstrip(_SPACE)
            self._follows_call = not self._buffer
        opening = self._syntax.opening
        if opening and (start := self._buffer.find(opening)) >= 0:
            self._say(self._take(start))
            self._take(len(opening))
            self._state = self._read_head
            return True
        num_held = _overlap(self._buffer, opening)
        self._say(self._take(len(self._buffer) - num_held))
        if is_final:
            self._give_up()
            self._text.append(self._space)
            self._space = ""
        return False

    def _read_head(self, is_final: bool) -> bool:
        """From behind the opening to where the arguments begin."""
        if match := self._head.whole.match(self._buffer):
            self._take(match.end() - len("{"))
            self._space = ""
            self._parts.append(CallPart(self._num_calls, name=match[1]))
            self._arguments = _JsonObject()
            self._state = self._read_arguments
            return True
        if not is_final and self._head.beginning.fullmatch(self._buffer):
            return False
        if is_final and self._is_cut_call and self._head.beginning.fullmatch(self._buffer):
            self._buffer = ""
        else:
            self._say(self._syntax.opening)
        self._state = self._read_text
        return True

    def _read_arguments(self, is_final: bool) -> bool:
        if piece := self._take(self._arguments.push(self._buffer)):
            self._parts.append(CallPart(self._num_calls, arguments=piece))
        if self._arguments.is_open:
            return False
        self._num_calls += 1
        self._state = self._read_brace
        return True

    def _read_brace(self, is_final: bool) -> bool:
        """The brace that closes the call, of which the arguments were a part."""
        if match := _BRACE.whole.match(self._buffer):
            self._take(match.end())
            self.num_complete += self._arguments.is_valid()
            self._is_cut_call = self._arguments.is_valid()
            self._state = self._read_closing
            return True
        if not is_final and _BRACE.beginning.fullmatch(self._buffer):
            return False
        self._state, self._follows_call = self._read_text, True
        return True

    def _read_closing(self, is_final: bool) -> bool:
        closing = self._syntax.closing
        self._buffer = self._buffer.lstrip(_SPACE)
        if self._buffer.startswith(closing):
            self._take(len(closing))
        elif closing.startswith(self._buffer):
            if is_final:  # cut off by max_tokens: the call is whole, and half a tag is no text
                self._buffer = ""
            return False
        self._state, self._follows_call = self._read_text, True
        return True

    def _give_up(self) -> None:
        """Decide on half an opening at the end: text, or, straight after a call, one that max_tokens cut off."""
        rest = self._take(len(self._buffer))
        if not self._is_cut_call:
            self._say(rest)

    def _take(self, num_chars: int) -> str:
        taken, self._buffer = self._buffer[:num_chars], self._buffer[num_chars:]
        return taken

    def _say(self, text: str) -> None:
        core = text.rstrip(_SPACE)
        if core:
            self._text.append(self._space + core)
            self._space = ""
            self._is_cut_call = False
        self._space += text[len(core) :]


@dataclass(slots=True)
class _JsonObject:
    """Finds the end of a JSON object by its brackets, outside of strings."""

    is_open: bool = True
    _pieces: list[str] = field(default_factory=list)
    _depth: int = 0
    _in_string: bool = False
    _is_escaped: bool = False

    def push(self, text: str) -> int:
        """How many characters of `text` belong to the object."""
        length = next((place + 1 for place, char in enumerate(text) if self._closes_with(char)), len(text))
        self._pieces.append(text[:length])
        return length

    def is_valid(self) -> bool:
        try:
            json_text.load("".join(self._pieces))
        except ValueError:
            return False
        return True

    def _closes_with(self, char: str) -> bool:
        if self._is_escaped:
            self._is_escaped = False
        elif self._in_string:
            self._is_escaped = char == "\\"
            self._in_string = char != '"'
        elif char == '"':
            self._in_string = True
        elif char in "{[":
            self._depth += 1
        elif char in "}]":
            self._depth -= 1
            self.is_open = self._depth > 0
        return not self.is_open


def _head(syntax: CallSyntax) -> _Pattern:
    key = f'"{syntax.arguments_key}"'
    atoms = ["{", _GAP, *'"name"', _GAP, ":", _GAP, '"', f"({NAME})", '"', _GAP, ",", _GAP, *key, _GAP, ":", _GAP, "{"]
    escaped = [re.escape(atom) if atom == "{" else atom for atom in atoms]
    return _Pattern.of([_GAP, *escaped] if syntax.opening else escaped)


_BRACE = _Pattern.of((_GAP, r"\}"))


def _overlap(text: str, opening: str) -> int:
    """Length of the longest end of `text` that `opening` may go on from."""
    longest = min(len(text), len(opening) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(opening[:n])), 0)
