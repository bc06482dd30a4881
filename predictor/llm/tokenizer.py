"""Text to token ids and back, built from the metadata of a GGUF file. Knows no model and no torch.

Byte-level BPE (Radford et al., 2019) through the `tokenizers` library. A token stands for bytes, not characters: one
character can span tokens, so a stream must be put together from `id_to_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

from mesh.errors import CorruptArtifact, InvalidInput, Unsupported
from predictor.llm.weights.gguf import GgufFile

# How text is cut into words before merging, by the name that llama.cpp gives it ("tokenizer.ggml.pre").
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = ("smollm", "qwen2", "gpt-2")

# Token types of llama.cpp.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4

# Tokens that end a turn besides the file's own end of sequence, in the chat formats in use.
_END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>")


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """What a model file says about its tokenizer; checked by `Tokenizer`.

    tokens: the text of each id, in the byte-level alphabet; token_types: llama.cpp's, one per token.
    merges: "left right", the strongest first. pre: how text is cut into words.
    """

    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    chat_template: str | None


def read_spec(file: GgufFile) -> TokenizerSpec:
    """The tokenizer in a GGUF file's metadata. Raises CorruptArtifact or Unsupported."""
    kind = file.string("tokenizer.ggml.model")
    if kind != "gpt2":
        raise Unsupported(f"{file.name}: tokenizer {kind!r} is not supported; only byte-level BPE ('gpt2') is")
    tokens = file.strings("tokenizer.ggml.tokens")

    def token_id(key: str) -> int | None:
        value = file.integer(key) if key in file.metadata else None
        if value is not None and not 0 <= value < len(tokens):
            raise CorruptArtifact(f"{file.name}: {key} is {value}; the vocabulary has {len(tokens)} tokens")
        return value

    template_key = "tokenizer.chat_template"
    return TokenizerSpec(
        tokens=tokens,
        token_types=file.integers("tokenizer.ggml.token_type"),
        merges=file.strings("tokenizer.ggml.merges"),
        pre=file.string("tokenizer.ggml.pre", "default"),
        bos_id=token_id("tokenizer.ggml.bos_token_id"),
        eos_id=token_id("tokenizer.ggml.eos_token_id"),
        add_bos=file.boolean("tokenizer.ggml.add_bos_token", False),
        chat_template=file.string(template_key) if template_key in file.metadata else None,
    )


class Tokenizer:
    """Immutable after construction, and safe to use from several threads.

    eos_ids: ids after which a turn is over. special_ids: control tokens, which carry no text of their own.
    """

    def __init__(self, spec: TokenizerSpec) -> None:
        """Raises CorruptArtifact when the parts do not fit together, Unsupported for an unknown `pre`."""
        _check(spec)
        self.vocab_size = len(spec.tokens)
        self.bos_id = spec.bos_id
        self.eos_id = spec.eos_id
        self.bos_token = None if spec.bos_id is None else spec.tokens[spec.bos_id]
        self.eos_token = None if spec.eos_id is None else spec.tokens[spec.eos_id]
        self.chat_template = spec.chat_template
        self.special_ids = frozenset(i for i, kind in enumerate(spec.token_types) if kind == _CONTROL)
        self.eos_ids = self._end_ids(spec)
        self._add_bos = spec.add_bos
        self._tokens = spec.tokens
        self._bytes = _token_bytes(spec)
        self._bpe = _build_bpe(spec)

    def encode(self, text: str, *, add_special: bool = False) -> list[int]:
        """Token ids of `text`. Special tokens written out in it (`<|im_start|>`) become their ids.

        add_special: put the begin-of-sequence token in front, if the model wants one.
        """
        try:
            ids = self._bpe.encode(text, add_special_tokens=False).ids
        except (TypeError, UnicodeEncodeError) as error:  # which of them depends on the library's version
            raise InvalidInput("text holds a lone surrogate, which no UTF-8 can express", field="text") from error
        if add_special and self._add_bos and self.bos_id is not None:
            return [self.bos_id, *ids]
        return list(ids)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD. InvalidInput for an id outside the vocabulary."""
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

    def id_to_token(self, token_id: int) -> str:
        """The token as the vocabulary spells it, in the byte-level alphabet."""
        if not 0 <= token_id < self.vocab_size:
            raise InvalidInput(f"token id {token_id} is outside the vocabulary of {self.vocab_size}")
        return self._tokens[token_id]

    def _end_ids(self, spec: TokenizerSpec) -> frozenset[int]:
        named = (i for i in self.special_ids if spec.tokens[i] in _END_OF_TURN)
        return frozenset(named if spec.eos_id is None else (spec.eos_id, *named))


def _check(spec: TokenizerSpec) -> None:
    if spec.pre not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise Unsupported(f"tokenizer.ggml.pre {spec.pre!r} is not supported; supported are {known}")
    if not spec.tokens or len(spec.token_types) != len(spec.tokens):
        raise CorruptArtifact(
            f"the tokenizer has {len(spec.tokens)} tokens and {len(spec.token_types)} token types; "
            "there must be one type per token, and at least one token"
        )


def _build_bpe(spec: TokenizerSpec) -> tokenizers.Tokenizer:
    vocabulary = {token: i for i, token in enumerate(spec.tokens)}
    if len(vocabulary) != len(spec.tokens):
        raise CorruptArtifact(f"the tokenizer repeats {len(spec.tokens) - len(vocabulary)} tokens")
    merges = [_split_merge(merge) for merge in spec.merges]
    try:
        bpe = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # the library raises bare Exception, for merges of tokens that do not exist
        raise CorruptArtifact(f"the tokenizer's merges do not fit its vocabulary: {error}") from error
    if spec.pre == "qwen2":
        bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = _pre_tokenizer(spec.pre)
    bpe.add_special_tokens(list(_added_tokens(spec, _CONTROL)))
    bpe.add_tokens(list(_added_tokens(spec, _USER_DEFINED)))
    return bpe


def _split_merge(merge: str) -> tuple[str, str]:
    # A space never stands for itself in the byte-level alphabet, so the first one after the start separates.
    left, separator, right = merge.partition(" ")
    if not (left and separator and right) or " " in right:
        raise CorruptArtifact(f"the tokenizer's merge {merge!r} is not two tokens with a space between")
    return left, right


def _pre_tokenizer(pre: str) -> pre_tokenizers.PreTokenizer:
    if pre == "smollm":
        return pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if pre == "qwen2":
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _added_tokens(spec: TokenizerSpec, token_type: int) -> Iterable[AddedToken]:
    for token, kind in zip(spec.tokens, spec.token_types, strict=True):
        if kind == token_type:
            yield AddedToken(token, normalized=False, special=token_type == _CONTROL)


def _token_bytes(spec: TokenizerSpec) -> tuple[bytes, ...]:
    byte_of = _byte_alphabet()
    table = []
    for token, kind in zip(spec.tokens, spec.token_types, strict=True):
        if kind == _CONTROL:
            table.append(b"")
        elif kind == _NORMAL and all(character in byte_of for character in token):
            table.append(bytes(byte_of[character] for character in token))
        else:
            table.append(token.encode())
    return tuple(table)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes: printable Latin-1 for itself, the others from U+0100 on, in order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + i): byte for i, byte in enumerate(others)})
    return alphabet
