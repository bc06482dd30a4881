"""Chained hashes over the blocks of a prompt: equal hashes mean that all text up to there is equal.

Text is hashed as bytes, before any tokenizer: about four of them make a token. Blocks grow with the text before them,
so a prompt of any length has few, and what two prompts share is known to an eighth. Hashes are the same in every
process (BLAKE2b, RFC 7693), so that gateways that do not see each other agree. Somebody who finds two texts of equal
hashes gains no more than a request at a replica that does not hold its prefix: 8 bytes suffice.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

BYTES_PER_TOKEN = 4
MAX_BLOCKS = 64


def _block_ends() -> tuple[int, ...]:
    ends = [64]
    while len(ends) < MAX_BLOCKS:
        ends.append(ends[-1] + max(64, ends[-1] // 8))
    return tuple(ends)


# Where each block ends, in tokens: 64, 128 … 576, 648, 729 … What comes after the last is not hashed.
BLOCK_ENDS = _block_ends()
MAX_BYTES = BLOCK_ENDS[-1] * BYTES_PER_TOKEN


def hash_text(parts: Iterable[str], salt: str = "") -> list[int]:
    """One hash for each full block of the text that `parts` make together, the first block's first.

    Parts are read only as far as blocks go. salt: texts of different salts share nothing.
    """
    data = bytearray()
    for part in parts:
        data += part[:MAX_BYTES].encode("utf-8", "surrogatepass")
        if len(data) >= MAX_BYTES:
            break
    return _hash(data, salt)


def hash_token_ids(token_ids: Sequence[int], salt: str = "") -> list[int]:
    """As `hash_text`, of tokens (32 bits each); shares nothing with the same prompt as text."""
    return _hash(array("i", token_ids[: BLOCK_ENDS[-1]]).tobytes(), f"tokens\n{salt}")


def _hash(data: bytes | bytearray, salt: str) -> list[int]:
    view = memoryview(data)
    hasher = blake2b(digest_size=8, key=blake2b(salt.encode("utf-8", "surrogatepass")).digest())
    hashes, start = [], 0
    for tokens in BLOCK_ENDS:
        end = tokens * BYTES_PER_TOKEN
        if end > len(data):
            break
        hasher.update(view[start:end])
        hashes.append(int.from_bytes(hasher.copy().digest(), "little"))
        start = end
    return hashes
