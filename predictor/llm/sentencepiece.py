"""SentencePiece's BPE (Kudo and Richardson, 2018) out of pieces and scores, as GGUF files hold it.

Such a vocabulary has no list of merges: of all neighbours in a text whose joint spelling is a piece, those of the best
score are joined first. The `tokenizers` library wants a list, which follows from the scores. Spaces are spelled ▁, and
a character without a piece becomes its bytes, `<0xC3>`. Knows nothing of files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import tokenizers
from tokenizers import models, normalizers

from mesh.errors import CorruptArtifact
from mesh.names import shown

# The longest of Gemma 3 has 31 characters. Each is cut in all its places below, so a hostile one would be costly.
MAX_PIECE_CHARS = 256

SPACE = "▁"
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def piece_bytes(piece: str) -> bytes:
    """What a piece stands for in text."""
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match[1])
    return piece.replace(SPACE, " ").encode()


def build_encoder(
    pieces: Sequence[str], scores: Sequence[float], is_joined: Sequence[bool], *, has_space_prefix: bool
) -> tokenizers.Tokenizer:
    """An encoder without special tokens.

    is_joined: whether a piece can come from joining others; control and byte tokens cannot. has_space_prefix: a text,
    and what follows a special token, gets a space in front. Raises CorruptArtifact when the parts do not fit together.
    """
    if not len(pieces) == len(scores) == len(is_joined):
        raise CorruptArtifact(f"the tokenizer has {len(pieces)} tokens and {len(scores)} scores; one each is needed")
    if not all(math.isfinite(score) for score in scores):
        raise CorruptArtifact("the tokenizer has a score that is no finite number")
    ids = {piece: i for i, piece in enumerate(pieces)}
    try:
        encoder = tokenizers.Tokenizer(
            models.BPE(ids, list(_merges(pieces, scores, is_joined)), byte_fallback=True, fuse_unk=True)
        )
    except Exception as error:  # the library raises bare Exception, for all that it does not take
        raise CorruptArtifact(f"the tokenizer's pieces cannot be joined: {error}") from error
    parts = [normalizers.Prepend(SPACE)] if has_space_prefix else []
    encoder.normalizer = normalizers.Sequence([*parts, normalizers.Replace(" ", SPACE)])
    return encoder


def _merges(pieces: Sequence[str], scores: Sequence[float], is_joined: Sequence[bool]) -> Iterator[tuple[str, str]]:
    """All pairs of pieces that join to one, the best score first."""
    joined = {piece for piece, can_join in zip(pieces, is_joined, strict=True) if can_join}
    for index in sorted(range(len(pieces)), key=lambda index: -scores[index]):
        piece = pieces[index]
        if len(piece) > MAX_PIECE_CHARS:
            raise CorruptArtifact(
                f"token {shown(piece)} has {len(piece)} characters; a piece has at most {MAX_PIECE_CHARS}"
            )
        if is_joined[index]:
            for cut in range(1, len(piece)):
                left, right = piece[:cut], piece[cut:]
                if left in joined and right in joined:
                    yield left, right
