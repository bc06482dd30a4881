"""Texts and pairs of texts to tokens, by the model's own `tokenizer.json`, with its special tokens around them.

Knows the longest input that a model takes, and whether a longer one is cut or refused; knows no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from mesh.errors import CorruptArtifact, InvalidInput, PromptTooLong
from predictor.encoder.batches import Encoding
from predictor.llm.json_tokenizer import MAX_TOKENIZER_BYTES
from predictor.llm.weights.json_object import read_bounded

# A text, or a pair of texts that are one input.
Input = str | tuple[str, str]


class EncoderTokenizer:
    """Safe to use from several threads.

    max_tokens: of one input, special tokens included. truncates: a longer input is cut (of a pair, the longer text
    first) instead of refused.
    """

    def __init__(
        self,
        encoder: tokenizers.Tokenizer,
        *,
        max_tokens: int,
        truncates: bool,
        has_token_types: bool = True,
        lower_case: bool = False,
    ) -> None:
        # Training leaves its own limits in some files.
        encoder.no_padding()
        encoder.no_truncation()
        if truncates:
            encoder.enable_truncation(max_tokens, strategy="longest_first")
        self._encoder = encoder
        self._max_tokens = max_tokens
        self._has_token_types = has_token_types
        self._lower_case = lower_case

    def encode(self, inputs: Sequence[Input], field: str, first_index: int = 0) -> list[Encoding]:
        """Each input as tokens, in order.

        Raises PromptTooLong that names the input as an element of `field`; that of `inputs[0]` is `first_index`.
        """
        prepared = [self._prepared(one) if isinstance(one, str) else tuple(map(self._prepared, one)) for one in inputs]
        # The plain `encode` keeps the GIL, and with it the event loop, for as long as a text is long.
        return [
            self._checked(tokens.ids, tokens.type_ids, f"{field}[{index}]")
            for index, tokens in enumerate(self._encoder.encode_batch_fast(prepared), first_index)
        ]

    def _checked(self, ids: list[int], type_ids: list[int], element: str) -> Encoding:
        if len(ids) > self._max_tokens:
            raise PromptTooLong(f"{element} has {len(ids)} tokens; the model takes {self._max_tokens}", field=element)
        array = np.array(ids, dtype=np.int64)
        return Encoding(array, np.array(type_ids, np.int64) if self._has_token_types else np.zeros_like(array))

    def _prepared(self, text: str) -> str:
        """Spaces around a text mean nothing, as in sentence-transformers."""
        stripped = text.strip()
        return stripped.lower() if self._lower_case else stripped


def read_encoder(folder: Path, vocab_size: int) -> tokenizers.Tokenizer:
    """The `tokenizer.json` of a folder. Raises NotFound, and CorruptArtifact for one that does not fit the model."""
    content = read_bounded(folder / "tokenizer.json", MAX_TOKENIZER_BYTES)
    try:
        encoder = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception, for all that it cannot read
        raise CorruptArtifact(f"tokenizer.json: {str(error)[:500]}") from error
    largest = max(encoder.get_vocab(with_added_tokens=True).values(), default=-1)
    if not 0 <= largest < vocab_size:
        raise CorruptArtifact(f"tokenizer.json: ids go up to {largest}; the model has embeddings for {vocab_size}")
    return encoder


def check_room(encoder: tokenizers.Tokenizer, max_tokens: int, *, is_pair: bool) -> None:
    """Raise InvalidInput unless an input of `max_tokens` holds more than the special tokens around it."""
    num_special = encoder.num_special_tokens_to_add(is_pair)
    if max_tokens <= num_special:
        raise InvalidInput(
            f"option 'max_tokens' is {max_tokens}; {num_special} of an input's tokens are special ones",
            field="max_tokens",
        )
