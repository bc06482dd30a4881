"""Random texts that tell detokenizers apart, and random token ids that are no text at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from predictor.llm.tokenizer import Tokenizer

COMBINING = [*range(0x300, 0x370), *range(0x1AB0, 0x1AC0), *range(0x20D0, 0x20F1), 0x5B0, 0x64B, 0x93C, 0xE31]
EMOJI = ("👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇫🇷", "1️⃣", "❤️‍🔥", "🧑🏿‍🚀", "😀", "\u200d", "\ufe0f")
SCRIPTS = ((0x4E00, 0x9FFF), (0x600, 0x6FF), (0x900, 0x97F), (0xAC00, 0xD7A3), (0x1100, 0x11FF), (0x400, 0x4FF))
WORDS = (
    "the",
    " quick",
    " brown",
    "fox",
    "  two",
    "\n",
    "\r\n",
    "\t",
    "12",
    "3.5",
    "don't",
    "x**2",
    "é",
    "ß",
    "e\u0301",
)


def any_character(rng: Random) -> str:
    """Of any plane, assigned or not; a plane is as likely as another."""
    code = rng.randrange(17) << 16 | rng.randrange(1 << 16)
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


_PARTS: tuple[Callable[[Random], str], ...] = (
    lambda rng: "".join(rng.choices(WORDS, k=rng.randint(1, 6))),
    lambda rng: "".join(any_character(rng) for _ in range(rng.randint(1, 4))),
    lambda rng: rng.choice("aeiou ना") + "".join(chr(rng.choice(COMBINING)) for _ in range(rng.randint(1, 5))),
    lambda rng: rng.choice(EMOJI),
    lambda rng: "".join(chr(rng.randint(*rng.choice(SCRIPTS))) for _ in range(rng.randint(1, 5))),
    lambda rng: chr(rng.randrange(0x20)),
    lambda rng: rng.choice(("\ufffd", "\ufeff", "\u2581", "\u0120", "\u202e", "\x7f", "\x85", "\uffff")),
)


def random_text(rng: Random, special: Sequence[str] = ()) -> str:
    """special: texts of special tokens, which stand in it here and there."""
    parts = [rng.choice(_PARTS)(rng) for _ in range(rng.randint(0, 8))]
    if special and rng.random() < 0.3:
        parts.insert(rng.randint(0, len(parts)), rng.choice(special))
    return "".join(parts)


class RandomTokens:
    """Ids of random texts by a tokenizer; of every second one, damaged as a model may damage it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ids = range(tokenizer.vocab_size)
        # Lone bytes: parts of characters, and bytes that no UTF-8 has.
        self._byte_ids = [i for i in ids if len(data := tokenizer.id_to_bytes(i)) == 1 and data[0] >= 0x80]
        self._special_ids = sorted(tokenizer.special_ids)
        self._special_texts = [tokenizer.decode([i], skip_special=False) for i in self._special_ids]

    def draw(self, rng: Random) -> list[int]:
        ids = self._tokenizer.encode(random_text(rng, self._special_texts))
        if rng.random() < 0.5:
            return ids
        for _ in range(rng.randint(1, 4)):
            place = rng.randint(0, len(ids))
            ids[place : place + rng.randint(0, 2)] = rng.choice(
                (
                    [rng.choice(self._byte_ids)],
                    rng.choices(self._byte_ids, k=rng.randint(1, 5)),
                    [rng.choice(self._special_ids)],
                    [rng.randrange(self._tokenizer.vocab_size)],
                    [],
                )
            )
        return ids
