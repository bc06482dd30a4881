"""Tokens to text, one token at a time, so that the pieces join to exactly what decoding the whole would give.

Works on the raw bytes of tokens: a character that is spread over several tokens comes out once it is complete, and
invalid bytes come out as U+FFFD as `bytes.decode("utf-8", errors="replace")` puts them. The text that is out after k
tokens depends on those k tokens alone, which is what lets another engine go on in the middle of a stream.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence

from predictor.llm.stop import StopMatcher


class Detokenizer:
    """The text of one output.

    id_to_bytes: raw bytes of a token; none for special tokens, which have no text.
    stop: strings that end the text and never appear in it.
    """

    def __init__(self, id_to_bytes: Callable[[int], bytes], stop: Sequence[str] = ()) -> None:
        self._id_to_bytes = id_to_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._matcher = StopMatcher(stop)

    @property
    def matched_stop(self) -> str | None:
        """The stop string that ended the text; None while there is none."""
        return self._matcher.matched

    def push(self, token_id: int) -> str:
        """Take one token; return the text that is certain by now and was not returned before."""
        return self._matcher.push(self._decoder.decode(self._id_to_bytes(token_id)))

    def flush(self) -> str:
        """Return the text that was held back: the output is over."""
        return self._matcher.push(self._decoder.decode(b"", final=True)) + self._matcher.flush()
