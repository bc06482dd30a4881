"""What the tokens of a model mean, as llguidance wants to know it. Plain data, so that it crosses a pipe."""

from __future__ import annotations

from dataclasses import dataclass

from llguidance import LLTokenizer, TokenizerWrapper

from mesh.errors import Unsupported
from predictor.llm.tokenizer import Tokenizer

# llguidance's own mark of a special token, and no part of any UTF-8 text.
_SPECIAL_MARK = b"\xff"


@dataclass(frozen=True, slots=True)
class GuideVocabulary:
    """tokens: the bytes of each id; b"" for one that stands for no text. special: names of control tokens, by id.

    eos_ids: ids that end a text, in order; at least one.
    """

    tokens: tuple[bytes, ...]
    special: dict[int, str]
    eos_ids: tuple[int, ...]

    @property
    def num_mask_bytes(self) -> int:
        """Length of a mask with a bit for every token."""
        return (len(self.tokens) + 7) // 8

    def eos_mask(self) -> bytes:
        """The mask that allows the end of the text and nothing else."""
        mask = bytearray(self.num_mask_bytes)
        for token_id in self.eos_ids:
            mask[token_id // 8] |= 1 << token_id % 8
        return bytes(mask)


def guide_vocabulary(tokenizer: Tokenizer) -> GuideVocabulary:
    """The vocabulary of `tokenizer`. Raises Unsupported when no token of it ends a text: no guided output could end."""
    if not tokenizer.eos_ids:
        raise Unsupported("the model has no end-of-text token, so its output cannot be guided")
    return GuideVocabulary(
        tokens=tuple(tokenizer.id_to_bytes(token_id) for token_id in range(tokenizer.vocab_size)),
        special={i: tokenizer.decode([i], skip_special=False) for i in sorted(tokenizer.special_ids)},
        eos_ids=tuple(sorted(tokenizer.eos_ids)),
    )


def build_llguidance_tokenizer(vocabulary: GuideVocabulary) -> LLTokenizer:
    """llguidance's tree of the tokens: about 0.1 s for 49,152 of them."""
    return LLTokenizer(TokenizerWrapper(_Tokens(vocabulary)), eos_token=list(vocabulary.eos_ids))


class _Tokens:
    """What llguidance's TokenizerWrapper reads."""

    def __init__(self, vocabulary: GuideVocabulary) -> None:
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.special_token_ids = sorted(vocabulary.special)
        self.tokens = [
            vocabulary.special[i].encode() if i in vocabulary.special else _text_bytes(token)
            for i, token in enumerate(vocabulary.tokens)
        ]

    def __call__(self, text: str | bytes) -> list[int]:
        # Only forced text is ever tokenized, and guides force none (grammar.py). An error here would be a Rust panic.
        return []


def _text_bytes(token: bytes) -> bytes:
    # An ordinary token with the mark in it (the byte token <0xFF>) would become a special one. No text has that byte.
    return b"" if _SPECIAL_MARK in token else token
