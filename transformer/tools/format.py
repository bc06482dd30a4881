"""The port of a tool format: how a model that was trained on it writes its calls.

Plain values; knows no wire. How tools and past calls get into the prompt is the template's business, or
`spelling.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from transformer.tools.declarations import ToolUse


@dataclass(frozen=True, slots=True)
class CallPart:
    """More of a call. name: in the call's first part only. The arguments of all parts join to what the model wrote."""

    call_index: int
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Parsed:
    """What new output turned out to be: text for the reader, and parts of calls."""

    text: str
    parts: tuple[CallPart, ...]


class OutputParser(Protocol):
    """Tells calls from text in one output as it comes; the result does not depend on how the text is cut."""

    @property
    def num_complete(self) -> int:
        """Calls so far that are whole, and whose arguments are a JSON object."""
        ...

    def push(self, text: str) -> Parsed:
        """More output. Holds back only what may yet become a call, and white space that may surround one."""
        ...

    def finish(self) -> Parsed:
        """The output has ended: the rest of what was held back. Call once, last."""
        ...


class ToolFormat(Protocol):
    """One way to write calls. Has no state: one instance serves all requests."""

    def is_spoken_by(self, template: str) -> bool:
        """Whether a model's chat template shows tools and teaches this format.

        Cost is linear in its length: templates are hostile.
        """
        ...

    def grammar(self, use: ToolUse) -> str:
        """What the output may be, in llguidance's variant of Lark."""
        ...

    def parser(self) -> OutputParser:
        """A parser at the beginning of an output.

        One that takes over in the middle of an output must first be pushed the text so far, and what that gives be
        thrown away; without it the parser knows of no call before, and takes the rest of one for text.
        """
        ...
