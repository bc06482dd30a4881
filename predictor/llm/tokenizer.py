"""Text to token ids and back. Knows no model, no file format and no torch: those who read files build it.

Text is cut by the `tokenizers` library. A token stands for bytes, not characters: one character can span tokens, so a
stream must be put together from `id_to_bytes`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import tokenizers

from mesh.errors import InvalidInput

# Tokens that end a turn besides the file's own end of sequence, in the chat formats in use.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What the ids of a model mean.

    tokens: each id as the vocabulary spells it, "" for an id that has no token. token_bytes: what each stands for in
    text, b"" for a special one. special_ids: control tokens, which carry no text of their own. eos_ids: ids after
    which a turn is over, `eos_id` among them.
    """

    tokens: tuple[str, ...]
    token_bytes: tuple[bytes, ...]
    special_ids: frozenset[int]
    bos_id: int | None
    eos_id: int | None
    eos_ids: frozenset[int]
    chat_template: str | None


class Tokenizer:
    """Immutable after construction, and safe to use from several threads.

    eos_ids: ids after which a turn is over. special_ids: control tokens, which carry no text of their own.
    """

    def __init__(self, encoder: tokenizers.Tokenizer, table: TokenTable) -> None:
        """encoder: with a post-processor that puts the begin-of-sequence token in front, if the model wants one."""
        self.vocab_size = len(table.tokens)
        self.bos_id = table.bos_id
        self.eos_id = table.eos_id
        self.bos_token = None if table.bos_id is None else table.tokens[table.bos_id]
        self.eos_token = None if table.eos_id is None else table.tokens[table.eos_id]
        self.chat_template = table.chat_template
        self.special_ids = table.special_ids
        self.eos_ids = table.eos_ids
        self._tokens = table.tokens
        self._bytes = table.token_bytes
        self._encoder = encoder

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of `text`. Special tokens written out in it (`<|im_start|>`) become their ids.

        add_special: put the begin-of-sequence token in front, if the model wants one.
        """
        try:
            return list(self._encoder.encode(text, add_special_tokens=add_special).ids)
        except (TypeError, UnicodeEncodeError) as error:  # which of them depends on the library's version
            raise InvalidInput("text holds a lone surrogate, which no UTF-8 can express", field="text") from error

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD. InvalidInput for an id outside the vocabulary.

        Ids may start anywhere in a text, so the space that a SentencePiece model puts in front of one stays.
        """
        parts = []
        for token_id in ids:
            if token_id in self.special_ids:
                parts.append(b"" if skip_special else self._tokens[token_id].encode())
            else:
                parts.append(self.id_to_bytes(token_id))
        return b"".join(parts).decode("utf-8", errors="replace")

    def id_to_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for; b"" for a special one. InvalidInput for an id outside the vocabulary."""
        if not 0 <= token_id < self.vocab_size:
            raise InvalidInput(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._bytes[token_id]


def end_of_turn_ids(tokens: Sequence[str], special_ids: Collection[int], eos_id: int | None) -> frozenset[int]:
    """`eos_id`, and the special tokens whose name says that a turn ends."""
    named = (i for i in special_ids if tokens[i] in _END_OF_TURN)
    return frozenset(named if eos_id is None else (eos_id, *named))


def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 for itself, the others from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet
