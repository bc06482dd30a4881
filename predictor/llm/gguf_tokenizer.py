"""The tokenizer that the metadata of a GGUF file describes: byte-level BPE (Radford et al., 2019) or SentencePiece's.

Of the first the file holds vocabulary and merges, and only a name for how text is cut into words first: what stands
behind the name is written here. Of the second it holds pieces and scores.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.llm import sentencepiece
from predictor.llm.tokenizer import Tokenizer, TokenTable, byte_alphabet, end_of_turn_ids
from predictor.llm.weights.gguf import GgufFile

# How text is cut into words before merging, by the name that llama.cpp gives it ("tokenizer.ggml.pre").
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_TOKENIZERS = ("smollm", "qwen2", "gpt-2")

# Kinds of vocabulary and types of token, as llama.cpp names and numbers them.
_BYTE_LEVEL, _SENTENCEPIECE = "gpt2", "llama"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class TokenizerSpec:
    """What a model file says about its tokenizer; checked by `build_tokenizer`.

    tokens: the text of each id, in the spelling of its kind; token_types: llama.cpp's, one per token.
    merges: "left right", the strongest first, and pre: how text is cut into words; both of byte-level BPE only.
    scores: one per token, and has_space_prefix: a text gets a space in front; both of SentencePiece only.
    """

    tokens: tuple[str, ...]
    token_types: tuple[int, ...]
    merges: tuple[str, ...]
    pre: str
    bos_id: int | None
    eos_id: int | None
    add_bos: bool
    chat_template: str | None
    kind: str = _BYTE_LEVEL
    scores: tuple[float, ...] = ()
    has_space_prefix: bool = False


def read_spec(file: GgufFile) -> TokenizerSpec:
    """The tokenizer in a GGUF file's metadata. Raises CorruptArtifact or Unsupported."""
    kind = file.string("tokenizer.ggml.model")
    if kind not in (_BYTE_LEVEL, _SENTENCEPIECE):
        raise Unsupported(
            f"{file.name}: tokenizer {shown(kind)} is not supported; byte-level BPE ({_BYTE_LEVEL!r}) and "
            f"SentencePiece ({_SENTENCEPIECE!r}) are"
        )
    is_sentencepiece = kind == _SENTENCEPIECE
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
        merges=() if is_sentencepiece else file.strings("tokenizer.ggml.merges"),
        pre=file.string("tokenizer.ggml.pre", "default"),
        bos_id=token_id("tokenizer.ggml.bos_token_id"),
        eos_id=token_id("tokenizer.ggml.eos_token_id"),
        # SentencePiece's defaults are those of Llama 2, whose files may leave them out.
        add_bos=file.boolean("tokenizer.ggml.add_bos_token", is_sentencepiece),
        chat_template=file.string(template_key) if template_key in file.metadata else None,
        kind=kind,
        scores=file.numbers("tokenizer.ggml.scores") if is_sentencepiece else (),
        has_space_prefix=file.boolean("tokenizer.ggml.add_space_prefix", is_sentencepiece),
    )


def build_tokenizer(spec: TokenizerSpec) -> Tokenizer:
    """Raises CorruptArtifact when the parts do not fit together, Unsupported for an unknown `pre`."""
    _check(spec)
    special_ids = frozenset(i for i, kind in enumerate(spec.token_types) if kind in (_CONTROL, _UNKNOWN))
    table = TokenTable(
        tokens=spec.tokens,
        token_bytes=_token_bytes(spec),
        special_ids=special_ids,
        bos_id=spec.bos_id,
        eos_id=spec.eos_id,
        eos_ids=end_of_turn_ids(spec.tokens, special_ids, spec.eos_id),
        chat_template=spec.chat_template,
    )
    return Tokenizer(_build_encoder(spec), table)


def _check(spec: TokenizerSpec) -> None:
    if spec.kind == _BYTE_LEVEL and spec.pre not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        raise Unsupported(f"tokenizer.ggml.pre {spec.pre!r} is not supported; supported are {known}")
    if not spec.tokens or len(spec.token_types) != len(spec.tokens):
        raise CorruptArtifact(
            f"the tokenizer has {len(spec.tokens)} tokens and {len(spec.token_types)} token types; "
            "there must be one type per token, and at least one token"
        )


def _build_encoder(spec: TokenizerSpec) -> tokenizers.Tokenizer:
    num_distinct = len(set(spec.tokens))
    if num_distinct != len(spec.tokens):
        raise CorruptArtifact(f"the tokenizer repeats {len(spec.tokens) - num_distinct} tokens")
    if spec.kind == _SENTENCEPIECE:
        is_joined = [kind == _NORMAL for kind in spec.token_types]
        encoder = sentencepiece.build_encoder(
            spec.tokens, spec.scores, is_joined, has_space_prefix=spec.has_space_prefix
        )
    else:
        encoder = _build_byte_level(spec)
    encoder.add_special_tokens(list(_added_tokens(spec, _CONTROL)))
    encoder.add_tokens(list(_added_tokens(spec, _USER_DEFINED)))
    if spec.add_bos and spec.bos_id is not None:
        begin: dict[str, object] = {"id": "begin", "ids": [spec.bos_id], "tokens": [spec.tokens[spec.bos_id]]}
        encoder.post_processor = processors.TemplateProcessing(single="begin $A", special_tokens=[begin])
    return encoder


def _build_byte_level(spec: TokenizerSpec) -> tokenizers.Tokenizer:
    vocabulary = {token: i for i, token in enumerate(spec.tokens)}
    merges = [_split_merge(merge) for merge in spec.merges]
    try:
        bpe = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    except Exception as error:  # the library raises bare Exception, for merges of tokens that do not exist
        raise CorruptArtifact(f"the tokenizer's merges do not fit its vocabulary: {error}") from error
    if spec.pre == "qwen2":
        bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = _pre_tokenizer(spec.pre)
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
        if kind in (_CONTROL, _UNKNOWN):
            table.append(b"")
        elif kind == _USER_DEFINED:
            table.append(token.encode())
        elif spec.kind == _SENTENCEPIECE:
            table.append(sentencepiece.piece_bytes(token))
        elif kind == _NORMAL and all(character in byte_of for character in token):
            table.append(bytes(byte_of[character] for character in token))
        else:
            table.append(token.encode())
    return tuple(table)
