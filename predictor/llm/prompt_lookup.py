"""Guesses how a text goes on: as it did where its last tokens stood before. Prompt lookup (Saxena, 2023).

Whoever rewrites, summarises or fixes a given text says much of it again, and so does code. No second model is asked, so
a guess costs microseconds. The index is LZ77's: for each pair of tokens its last place, and for each place the one
before it with the same pair (hash chains, as in zlib). Knows tokens only.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

# The tokens that must agree for a guess; more are compared to choose among several places.
MIN_MATCH = 2
MAX_MATCH = 8
# Earlier places that one guess compares, the newest first: bounds the time of a guess in a text that is all alike.
MAX_PLACES = 16

_NONE = -1


class PromptLookup:
    """An index over one growing list of tokens. O(1) for each new token; some 100 bytes for each, as long as it lives.

    A place is the position of a token that has an earlier one before it and a later one behind it: what follows the
    newest token is not known yet, so the newest is never found.
    """

    def __init__(self) -> None:
        self._num_indexed = 1  # the first token is the second of no pair
        self._last_place: dict[tuple[int, int], int] = {}
        self._place_before = array("i", [_NONE])  # by position: where the same pair ended before

    def propose(self, token_ids: Sequence[int], max_tokens: int, trust: int) -> tuple[int, ...]:
        """What followed the longest earlier match of the end of `token_ids`, at most `max_tokens`.

        As many tokens as the match is long, or `trust` if that is more: a long match is followed further. Of equally
        long matches the newest counts. Where the text ends before there are enough, it goes on as from the place once
        more: a loop goes on as a loop. Empty when the last two tokens never stood together before. `token_ids` are
        those of the call before, with more behind them.
        """
        self._index(token_ids)
        if len(token_ids) < MIN_MATCH or max_tokens < 1:
            return ()
        newest = len(token_ids) - 1
        place = self._last_place.get((token_ids[-2], token_ids[-1]), _NONE)
        best, longest = _NONE, 0
        for _ in range(MAX_PLACES):
            if place == _NONE or longest == MAX_MATCH:
                break
            length = _match_length(token_ids, place, newest)
            if length > longest:
                best, longest = place, length
            place = self._place_before[place]
        if best == _NONE:
            return ()
        num_tokens = min(max_tokens, max(longest, trust))
        followed = token_ids[best + 1 : best + 1 + num_tokens]
        return tuple(followed[i % len(followed)] for i in range(num_tokens))

    def _index(self, token_ids: Sequence[int]) -> None:
        """Take in every place that is new: all tokens but the newest."""
        for position in range(self._num_indexed, len(token_ids) - 1):
            pair = (token_ids[position - 1], token_ids[position])
            self._place_before.append(self._last_place.get(pair, _NONE))
            self._last_place[pair] = position
        self._num_indexed = max(self._num_indexed, len(token_ids) - 1)


def _match_length(token_ids: Sequence[int], place: int, newest: int) -> int:
    """How many tokens up to `place` are those up to `newest`; at most MAX_MATCH are compared."""
    length = 0
    while length < MAX_MATCH and place >= length and token_ids[place - length] == token_ids[newest - length]:
        length += 1
    return length
