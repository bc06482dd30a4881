"""The tokenizer that the metadata of a GGUF file describes: byte-level BPE (Radford et al., 2019) from its parts.

The file holds vocabulary and merges, and only a name for how text is cut into words first: what stands behind the name
is written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.tokenizer import Tokenizer, TokenTable, byte_alphabet, end_of_turn_ids
from predictor.llm.weights.gguf import GgufFile

# How text is cut into words before merging, by the name that llama.cpp gives it ("tokenizer.ggml.pre").
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = ("smollm", "qwen2", "gpt-2")

# Token types of llama.cpp.
_NORMAL, _CONTROL, _USER_DEFINED = 1, 3, 4


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """What a model file says about its tokenizer; checked by `build_tokenizer`.

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


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Raises CorruptArtifact when the parts do not fit together, Unsupported for an unknown `pre`."""
    _check(spec)
    special_ids = frozenset(i for i, kind in enumerate(spec.token_types) if kind == _CONTROL)
    table = TokenTable(
        tokens=spec.tokens,
        token_bytes=_token_bytes(spec),
        special_ids=special_ids,
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
        eos_ids=end_of_turn_ids(spec.tokens, special_ids, spec.eos_id),
        chat_template=spec.chat_template,
    )
    return Tokenizer(_build_bpe(spec), table)


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
    if spec.add_bos and spec.bos_id is not None:
        begin: dict[str, object] = {"id": "begin", "ids": [spec.bos_id], "tokens": [spec.tokens[spec.bos_id]]}
        bpe.post_processor = processors.TemplateProcessing(single="begin $A", special_tokens=[begin])
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
    byte_of = byte_alphabet()
    table = []
    for token, kind in zip(spec.tokens, spec.token_types, strict=True):
        if kind == _CONTROL:
            table.append(b"")
        elif kind == _NORMAL and all(character in byte_of for character in token):
            table.append(bytes(byte_of[character] for character in token))
        else:
            table.append(token.encode())
    return tuple(table)
