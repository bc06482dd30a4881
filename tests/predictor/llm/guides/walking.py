"""Random outputs that a guide lets through, and what a mask says."""

from __future__ import annotations

import random

import numpy as np

from predictor.llm.guide import Guide
from predictor.llm.tokenizer import Tokenizer

# Tokens that bring a JSON text nearer to its end, the best first.
_CLOSING = (b'"}', b'"]', b"}", b"]", b'"')
_CLOSING_FROM = 40
_MAX_TOKENS = 600


def allowed_ids(guide: Guide) -> list[int]:
    """The tokens of the guide's mask."""
    mask = np.frombuffer(guide.allowed(), np.uint8)
    return np.flatnonzero(np.unpackbits(mask, bitorder="little")).tolist()


def walk(guide: Guide, tokenizer: Tokenizer, seed: int) -> list[int]:
    """Random allowed tokens up to an end of text, the last of them; steered to it after a while."""
    rng = random.Random(seed)
    token_ids: list[int] = []
    while not token_ids or token_ids[-1] not in tokenizer.eos_ids:
        assert len(token_ids) < _MAX_TOKENS, f"seed {seed}: no end after {tokenizer.decode(token_ids)!r}"
        token_id = _choice(allowed_ids(guide), tokenizer, rng, len(token_ids))
        guide.accept(token_id)
        token_ids.append(token_id)
    return token_ids


def accepts(guide: Guide, token_ids: list[int]) -> int:
    """How many of the tokens the masks let through, one after the other; those are accepted."""
    for count, token_id in enumerate(token_ids):
        if token_id not in allowed_ids(guide):
            return count
        guide.accept(token_id)
    return len(token_ids)


def _choice(candidates: list[int], tokenizer: Tokenizer, rng: random.Random, position: int) -> int:
    if position >= _CLOSING_FROM:
        if ends := [i for i in candidates if i in tokenizer.eos_ids]:
            return rng.choice(ends)
        by_bytes = {tokenizer.id_to_bytes(i): i for i in candidates}
        for closing in _CLOSING:
            if closing in by_bytes and rng.random() < 0.7:
                return by_bytes[closing]
    return rng.choice(candidates)
