"""The tokenizer of a model folder: `tokenizer.json` for the text, the files beside it for what ends a turn.

`tokenizers` reads its own file. What this module adds is the bytes behind every token, for the two kinds of BPE that
language models use: byte-level, and SentencePiece's with ▁ for a space and `<0x41>` for a byte without a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import tokenizers

from mesh.errors import CorruptArtifact, Unsupported
from mesh.names import shown
from predictor.llm.sentencepiece import piece_bytes
from predictor.llm.tokenizer import Tokenizer, TokenTable, byte_alphabet, end_of_turn_ids
from predictor.llm.weights.json_object import JsonObject, Value, read_bounded

# The largest in the wild, for 262,144 tokens, has 33 MB.
MAX_TOKENIZER_BYTES = 128 << 20
MAX_SETTINGS_BYTES = 8 << 20
MAX_TEMPLATE_BYTES = 1 << 20
MAX_TOKENS = 1 << 22


def read_tokenizer_folder(folder: Path) -> Tokenizer:
    """Raises NotFound without a `tokenizer.json`, CorruptArtifact, or Unsupported for a kind that is not BPE."""
    content = read_bounded(folder / "tokenizer.json", MAX_TOKENIZER_BYTES)
    description = JsonObject.parse(content, "tokenizer.json")
    encoder = _load_encoder(content)
    if not isinstance(encoder.model, tokenizers.models.BPE):
        raise Unsupported(f"tokenizer.json: model {type(encoder.model).__name__!r} is not supported; only 'BPE' is")
    settings = JsonObject.read_optional(folder / "tokenizer_config.json", MAX_SETTINGS_BYTES)
    tokens = _tokens(encoder)
    ids = {token: i for i, token in enumerate(tokens)}
    added = encoder.get_added_tokens_decoder()
    special_ids = frozenset(i for i, token in added.items() if token.special)
    eos_id = _named_id(settings, "eos_token", ids)
    declared = _declared_ids(folder, "eos_token_id", len(tokens))
    table = TokenTable(
        tokens=tokens,
        token_bytes=_token_bytes(tokens, special_ids, frozenset(added), description),
        special_ids=special_ids,
        bos_id=_first(_named_id(settings, "bos_token", ids), _declared_ids(folder, "bos_token_id", len(tokens))),
        eos_id=_first(eos_id, declared),
        eos_ids=end_of_turn_ids(tokens, special_ids, eos_id) | frozenset(declared),
        chat_template=_chat_template(folder, settings),
    )
    return Tokenizer(encoder, table)


def _load_encoder(content: bytes) -> tokenizers.Tokenizer:
    try:
        encoder = tokenizers.Tokenizer.from_buffer(content)
    except Exception as error:  # the library raises bare Exception, for all that it cannot read
        raise CorruptArtifact(f"tokenizer.json: {str(error)[:500]}") from error
    # Training leaves its limits in some files: a prompt must not be cut or padded by them.
    encoder.no_truncation()
    encoder.no_padding()
    return encoder


def _tokens(encoder: tokenizers.Tokenizer) -> tuple[str, ...]:
    """The token of each id up to the largest; "" for an id between that has none."""
    vocabulary = encoder.get_vocab(with_added_tokens=True)
    size = 1 + max(vocabulary.values(), default=-1)
    if not 1 <= size <= MAX_TOKENS:
        raise CorruptArtifact(f"tokenizer.json: ids go up to {size - 1}; there must be 1 to {MAX_TOKENS} of them")
    tokens = [""] * size
    for token, token_id in vocabulary.items():
        tokens[token_id] = token
    return tuple(tokens)


def _token_bytes(
    tokens: tuple[str, ...], special_ids: frozenset[int], added_ids: frozenset[int], description: JsonObject
) -> tuple[bytes, ...]:
    """Added tokens stand for themselves; the others as the model's kind of BPE spells them."""
    alphabet = byte_alphabet()
    is_sentencepiece = _is_sentencepiece(description)
    table = []
    for token_id, token in enumerate(tokens):
        if token_id in special_ids:
            table.append(b"")
        elif token_id in added_ids:
            table.append(token.encode())
        else:
            table.append(piece_bytes(token) if is_sentencepiece else _spelled_in_bytes(token, alphabet))
    return tuple(table)


def _spelled_in_bytes(token: str, alphabet: dict[str, int]) -> bytes:
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()


def _is_sentencepiece(description: JsonObject) -> bool:
    """Which of the two kinds the file describes, by the decoder that it names; Unsupported for any other."""
    kinds = set(_decoder_kinds(description.child("decoder")))
    if "ByteLevel" in kinds:
        return False
    if kinds & {"ByteFallback", "Metaspace"}:
        return True
    raise Unsupported(
        f"tokenizer.json: decoder {sorted(kinds)} is not supported; it must hold ByteLevel, ByteFallback or Metaspace"
    )


def _decoder_kinds(decoder: JsonObject) -> Iterator[str]:
    kind = decoder.string("type", "none")
    if kind != "Sequence":
        yield kind
        return
    for part in decoder.array("decoders"):
        if isinstance(part, dict):
            yield from _decoder_kinds(JsonObject(part, decoder.source))


def _named_id(settings: JsonObject, key: str, ids: dict[str, int]) -> int | None:
    """The id of a token that `tokenizer_config.json` names, as text or as an object with its `content`."""
    if not settings.has(key):
        return None
    is_object = isinstance(settings.values[key], dict)
    token = settings.child(key).string("content") if is_object else settings.string(key)
    if token not in ids:
        raise CorruptArtifact(
            f"{settings.source}: {key!r} is {shown(token)}, which is not in the vocabulary", field=key
        )
    return ids[token]


def _declared_ids(folder: Path, key: str, num_tokens: int) -> tuple[int, ...]:
    """Ids by number: those of `generation_config.json`, which goes with generation, else those of `config.json`."""
    for name in ("generation_config.json", "config.json"):
        settings = JsonObject.read_optional(folder / name, MAX_SETTINGS_BYTES)
        if settings.has(key):
            value = settings.values[key]
            return tuple(
                _checked_id(settings, key, v, num_tokens) for v in (value if isinstance(value, list) else [value])
            )
    return ()


def _checked_id(settings: JsonObject, key: str, value: Value, num_tokens: int) -> int:
    if type(value) is not int or not 0 <= value < num_tokens:
        raise CorruptArtifact(
            f"{settings.source}: {key!r} holds {shown(str(value))}; it must be an id of the {num_tokens} tokens",
            field=key,
        )
    return value


def _first(named: int | None, declared: tuple[int, ...]) -> int | None:
    return declared[0] if named is None and declared else named


def _chat_template(folder: Path, settings: JsonObject) -> str | None:
    """The file of its own if there is one, else the one in the settings: a text, or a list of named ones."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return read_bounded(file, MAX_TEMPLATE_BYTES).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptArtifact(f"{file.name}: not UTF-8") from error
    if not settings.has("chat_template"):
        return None
    if isinstance(settings.values["chat_template"], list):
        named = [
            JsonObject(entry, settings.source) for entry in settings.array("chat_template") if isinstance(entry, dict)
        ]
        return next((entry.string("template") for entry in named if entry.string("name") == "default"), None)
    return settings.string("chat_template")
