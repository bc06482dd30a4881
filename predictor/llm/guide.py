"""What the text of an output must look like, and the port of whatever holds the output to it.

A guide is the state of one output: which tokens may come next, moved on by each token that does. It lives beside the
sequence, so it outlasts preemptions, and it is made anew from the tokens so far when another engine goes on. Knows no
grammar library, no scheduler and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Protocol


class GuideKind(Enum):
    """The values are the names of the fields of mesh.v1.Guide."""

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    REGEX = "regex"
    GRAMMAR = "grammar"  # llguidance's variant of Lark
    CHOICES = "choices"


@dataclass(frozen=True, slots=True)
class GuideSpec:
    """source: the schema, expression or grammar as text; empty for JSON_OBJECT and CHOICES."""

    kind: GuideKind
    source: str = ""
    choices: tuple[str, ...] = ()


class Guide(Protocol):
    """One output on its way through a grammar. Deterministic: equal specs and equal tokens give equal answers."""

    @property
    def is_complete(self) -> bool:
        """True when the text is whole and nothing may follow it but its end."""
        ...

    def allowed(self) -> bytes:
        """The tokens that may come next, as a bitmap: bit i % 8 of byte i // 8 stands for token i.

        The end-of-text tokens are among them exactly when the text may end here. Never empty: a complete text allows
        its end. Tokens beyond the bitmap are not allowed.
        """
        ...

    def accept(self, token_id: int, /) -> None:
        """Move on. `token_id` is one of `allowed()`; the end-of-text tokens leave the guide complete."""
        ...


class GuideMaker(Protocol):
    """Makes guides for one vocabulary."""

    def start(self, spec: GuideSpec, /) -> Guide:
        """A guide at its beginning. Raises InvalidInput that says what is wrong with `spec`, and where."""
        ...
