"""Where each token of an echoed prompt stands in its text.

The mesh gives the prompt's whole text, and the bytes of each token but the first. Special tokens have no bytes and yet
are written out in the text; so where they stand, and the first token, follows from what the others leave over. Only
words that also stand within a special token's own text can be taken for that, which moves offsets, never tokens.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence

from mesh.v1 import language_model_pb2 as lm


def echoed_tokens(text: str, tokens: Sequence[lm.TokenLogprob]) -> list[tuple[str, int]]:
    """The text of each prompt token and its offset in `text`, in characters; `tokens` are all but the first.

    Special tokens side by side share what is written there: the first has it all, the others nothing.
    """
    offsets = _offsets(text, [b"", *(token.token_bytes for token in tokens)])
    ends = [*offsets[1:], len(text)]
    written = [text[begin:end] for begin, end in zip(offsets, ends, strict=True)]
    return list(zip([written[0], *map(_text, tokens, written[1:])], offsets, strict=True))


def _text(token: lm.TokenLogprob, written: str) -> str:
    return token.text if token.token_bytes else written


def _offsets(text: str, pieces: Sequence[bytes]) -> list[int]:
    """From the end, run by run of tokens with bytes: what is left between two runs belongs to tokens without."""
    offsets = [0] * len(pieces)
    end = len(text)
    unplaced: list[int] = []
    by_kind = itertools.groupby(range(len(pieces)), key=lambda index: bool(pieces[index]))
    groups = [(has_bytes, list(indices)) for has_bytes, indices in by_kind]
    for has_bytes, group in reversed(groups):
        if not has_bytes:
            unplaced = group
            continue
        run, starts = _decoded([pieces[index] for index in group])
        begin = _place(text, run, end, len(unplaced))
        for index, start in zip(group, starts, strict=True):
            offsets[index] = begin + start
        _share(offsets, unplaced, begin + len(run), end)
        end, unplaced = begin, []
    _share(offsets, unplaced, 0, end)
    return offsets


def _decoded(pieces: Sequence[bytes]) -> tuple[str, list[int]]:
    """The text of the pieces, and where each begins; a character belongs to the piece that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts, starts, length = [], [], 0
    for piece in pieces:
        starts.append(length)
        parts.append(decoder.decode(piece))
        length += len(parts[-1])
    parts.append(decoder.decode(b"", final=True))
    return "".join(parts), starts


def _place(text: str, run: str, end: int, num_following: int) -> int:
    """Where `run` begins: its last place before `end` that leaves a character for each token that follows it."""
    found = text.rfind(run, 0, max(0, end - num_following))
    return found if found >= 0 else max(0, end - len(run))


def _share(offsets: list[int], indices: Sequence[int], begin: int, end: int) -> None:
    for index in indices:
        offsets[index] = begin
        begin = end
