"""What one output of a language model says, cut into parts: texts, and calls of tools, in the order of their coming.

For the APIs whose answers are lists of such parts, each told as it begins, grows and ends: Anthropic's messages and
OpenAI's responses. What they call a part, and how they write it, is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from mesh.errors import Internal
from mesh.v1 import language_model_pb2 as lm


class What(Enum):
    """What has happened to a part."""

    BEGAN = "began"
    GREW = "grew"
    ENDED = "ended"


@dataclass(slots=True)
class Part:
    """A text, or a call of a tool with the text of its arguments.

    index: among the parts of the output. call_index, call_id, name: of a call; None and empty for a text.
    """

    index: int
    call_index: int | None = None
    call_id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    logprobs: list[lm.PositionLogprobs] = field(default_factory=list)

    @property
    def is_call(self) -> bool:
        return self.call_index is not None

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True)
class Change:
    """text, logprobs: what a part that grew has won."""

    what: What
    part: Part
    text: str = ""
    logprobs: tuple[lm.PositionLogprobs, ...] = ()


class OutputParts:
    """Takes in the messages of a generation with one output. one_call: only the first call is told."""

    def __init__(self, *, one_call: bool = False) -> None:
        self.all: list[Part] = []
        self.start = lm.GenerationStart()
        self.finish_reason = lm.FINISH_REASON_UNSPECIFIED
        self.matched_stop = ""
        self.usage = lm.Usage()
        self._one_call = one_call
        self._open: Part | None = None
        # Of tokens whose text has not come yet: part of a character, or of what may be a stop text.
        self._logprobs: list[lm.PositionLogprobs] = []

    def add(self, message: lm.GenerateResponse) -> Iterator[Change]:
        """Take in the next message, and tell what it changes. To be read to its end.

        Raises Internal for a message about another output, or about a call that has ended.
        """
        if message.index:
            raise Internal(f"the model answered with output {message.index}; one was asked for")
        if message.HasField("start"):
            self.start = message.start
            self.usage = lm.Usage(prompt_tokens=message.start.prompt_tokens)
        self._logprobs.extend(one for one in message.logprobs if one.chosen.text or one.chosen.token_bytes)
        if message.text:
            yield from self._add_text(message.text)
        for delta in message.tool_calls:
            if not (self._one_call and delta.index > 0):
                yield from self._add_call(delta)
        if message.finish_reason:
            self.finish_reason, self.matched_stop = message.finish_reason, message.matched_stop
            self.usage = message.usage
            yield from self._end()

    def check_ended(self) -> None:
        """Raise Internal when the output has no end: half an answer must not look like a whole one."""
        if not self.finish_reason:
            raise Internal("the model ended its answer before it was complete")

    def _add_text(self, text: str) -> Iterator[Change]:
        if self._open is None or self._open.is_call:
            yield from self._begin(Part(len(self.all)))
        yield from self._grow(text)

    def _add_call(self, delta: lm.ToolCallDelta) -> Iterator[Change]:
        is_new = all(part.call_index != delta.index for part in self.all)
        if is_new:
            yield from self._begin(Part(len(self.all), delta.index, delta.id, delta.name))
        elif self._open is None or self._open.call_index != delta.index:
            raise Internal(f"the model went back to tool call {delta.index} after it had ended")
        if delta.arguments:
            yield from self._grow(delta.arguments)

    def _begin(self, part: Part) -> Iterator[Change]:
        yield from self._end()
        self.all.append(part)
        self._open = part
        yield Change(What.BEGAN, part)

    def _grow(self, text: str) -> Iterator[Change]:
        part = self._open
        assert part is not None, "a part has begun"
        logprobs = () if part.is_call else tuple(self._logprobs)
        self._logprobs.clear()
        part.pieces.append(text)
        part.logprobs.extend(logprobs)
        yield Change(What.GREW, part, text, logprobs)

    def _end(self) -> Iterator[Change]:
        if self._open is not None:
            part, self._open = self._open, None
            yield Change(What.ENDED, part)
