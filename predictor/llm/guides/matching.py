"""One output on its way: a Guide over llguidance's matcher.

Guides of one spec share what the matcher has learnt about its expressions. That makes them fast, and it has a bound
(too many states) which one of them may reach for all. So a guide whose matcher fails makes one of its own, gives it the
tokens so far, and fails only if that one fails too: then no other output is to blame.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from llguidance import LLMatcher

from mesh.errors import InvalidInput
from predictor.llm.guides.vocabulary import GuideVocabulary

T = TypeVar("T")


class TooCostly(InvalidInput):
    """What may come next cannot be found out within the limits of a step."""


class MatcherGuide:
    """Implements predictor.llm.guide.Guide. After an error it stands where it stood before."""

    def __init__(self, field: str, vocabulary: GuideVocabulary, matcher: LLMatcher, renew: Callable[[], LLMatcher]):
        """matcher: fresh, and this guide's own. renew: makes one that shares nothing; raises InvalidInput."""
        self._field = field
        self._vocabulary = vocabulary
        self._matcher = matcher
        self._renew = renew
        self._eos_mask = vocabulary.eos_mask()
        self._token_ids: list[int] = []
        self._has_ended = False
        self._allowed: bytes | None = None

    @property
    def is_complete(self) -> bool:
        return self.allowed() == self._eos_mask

    def allowed(self) -> bytes:
        """As Guide.allowed; `GuideVocabulary.num_mask_bytes` long.

        Raises InvalidInput when no token can follow, and TooCostly.
        """
        if self._allowed is None:
            self._allowed = self._eos_mask if self._has_ended else self._compute_allowed()
        return self._allowed

    def accept(self, token_id: int, /) -> None:
        """As Guide.accept. Raises InvalidInput for a token that does not fit, and TooCostly."""
        if token_id in self._vocabulary.eos_ids:
            if not self._has_ended and not self._matcher.is_accepting():
                raise self._error(f"the text ends with token {token_id}, and is not whole")
            self._has_ended = True
        elif self._has_ended or not self._step(lambda matcher: matcher.try_consume_tokens([token_id]) == 1):
            raise self._error(f"token {token_id} does not fit")
        else:
            self._token_ids.append(token_id)
        self._allowed = None

    def _compute_allowed(self) -> bytes:
        num_bytes = self._vocabulary.num_mask_bytes
        mask = bytearray(self._step(LLMatcher.compute_bitmask)[:num_bytes])
        # A grammar may name the end-of-text tokens like any other. Here they mean the end, and nothing else.
        may_end = self._matcher.is_accepting()
        for token_id in self._vocabulary.eos_ids:
            byte, bit = token_id // 8, 1 << token_id % 8
            mask[byte] = mask[byte] | bit if may_end else mask[byte] & ~bit
        if not any(mask):
            raise self._error("no token can follow")
        return bytes(mask)

    def _step(self, step: Callable[[LLMatcher], T]) -> T:
        """`step` on the matcher, or on one of its own when the shared one is worn out."""
        result = step(self._matcher)
        if not self._matcher.is_error():
            return result
        if self._matcher.get_error().startswith("NoExtensionBias"):
            raise self._error("no token can follow")
        self._matcher = self._renew()
        self._matcher.try_consume_tokens(self._token_ids)
        result = step(self._matcher)
        if self._matcher.is_error():
            raise TooCostly(self._sentence(_reason(self._matcher.get_error())), field=self._field)
        return result

    def _error(self, what: str) -> InvalidInput:
        return InvalidInput(self._sentence(what), field=self._field)

    def _sentence(self, what: str) -> str:
        return f"{self._field}: after {len(self._token_ids)} tokens of output {what}"


def _reason(complaint: str) -> str:
    if found := re.search(r"Current row has (\d+) items; max is (\d+)", complaint):
        return f"too many ways to go on are open: {found[1]}; at most {found[2]} are followed"
    return complaint.split("\n")[0]
