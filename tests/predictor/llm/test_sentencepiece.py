"""SentencePiece out of a GGUF file: ids as its rule gives them, slowly and obviously, and as transformers has them."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import gguf
import pytest

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.gguf_tokenizer import TokenizerSpec, build_tokenizer
from predictor.llm.sentencepiece import MAX_PIECE_CHARS
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.random_text import random_text
from tests.predictor.llm.small_tokenizers import TEXTS

CONTROL = ("<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Best first: "▁t" and "th" both want the t of " the".
JOINED = ("he", "▁t", "in", "er", "the", "th", "▁the", "aa", "aaa", "▁▁", "▁▁▁▁", "日本", "the▁", "ing", "ding")
CHARACTERS = tuple("▁abcdefghijklmnopqrstuvwxyz.,日本語äöü")


def small_spec(**changes: Any) -> TokenizerSpec:  # Any: fields of the spec
    tokens = ("<unk>", *CONTROL, *BYTES, "<tool>", *JOINED, *CHARACTERS)
    spec = TokenizerSpec(
        tokens=tokens,
        token_types=(2, 3, 3, *(6,) * 256, 4, *(1,) * (len(JOINED) + len(CHARACTERS))),
        merges=(),
        pre="default",
        bos_id=1,
        eos_id=2,
        add_bos=True,
        chat_template=None,
        kind="llama",
        scores=tuple(-float(i) for i in range(len(tokens))),
        has_space_prefix=True,
    )
    return replace(spec, **changes)


SMALL = build_tokenizer(small_spec())


def obvious_ids(spec: TokenizerSpec, text: str) -> list[int]:
    """Join the best neighbours, the leftmost of equals, until nothing joins; then spell the rest in bytes."""
    ids = {token: i for i, token in enumerate(spec.tokens)}
    score_of = {
        token: score for token, score, kind in zip(spec.tokens, spec.scores, spec.token_types, strict=True) if kind == 1
    }
    symbols = list(text.replace(" ", "▁"))
    if spec.has_space_prefix and symbols:
        symbols.insert(0, "▁")
    while True:
        pairs = [(score_of.get(left + right), left + right) for left, right in pairwise(symbols)]
        scores = [score for score, _ in pairs if score is not None]
        if not scores:
            break
        place = next(i for i, (score, _) in enumerate(pairs) if score == max(scores))
        symbols[place : place + 2] = [pairs[place][1]]
    found: list[int] = []
    for symbol in symbols:
        found += [ids[symbol]] if symbol in ids else [ids[f"<0x{byte:02X}>"] for byte in symbol.encode()]
    return found


@pytest.mark.parametrize("has_space_prefix", [True, False])
def test_ids_are_those_of_the_obvious_way(has_space_prefix: bool) -> None:
    spec = small_spec(has_space_prefix=has_space_prefix)
    tokenizer = build_tokenizer(spec)
    texts = [text for text in TEXTS if "<|" not in text]
    for seed in range(1000):
        rng = Random(seed)
        texts.append(random_text(rng) + "".join(rng.choices("the in gaa日本 ", k=rng.randint(0, 12))))

    for text in texts:
        assert tokenizer.encode(text) == obvious_ids(spec, text), text
        plain = text.replace("▁", " ")
        assert tokenizer.decode(tokenizer.encode(text)) == (f" {plain}" if has_space_prefix and text else plain)


def test_special_tokens_are_silent_and_user_defined_ones_have_text() -> None:
    bos, the, tool = SMALL.encode("<s>the<tool>")

    assert [SMALL.id_to_bytes(i) for i in (bos, the, tool, 0)] == [b"", b" the", b"<tool>", b""]
    assert SMALL.encode("the", add_special=True) == [1, *SMALL.encode("the")]
    assert SMALL.special_ids == {0, 1, 2}
    assert SMALL.eos_ids == {2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": (0.0,)}, "tokens and 1 scores; one each is needed"),
        ({"scores": (float("nan"),) * len(small_spec().tokens)}, "a score that is no finite number"),
        ({"token_types": (1,)}, "there must be one type per token"),
        ({"tokens": ("a",) * len(small_spec().tokens)}, "the tokenizer repeats"),
        ({"tokens": ("x" * (MAX_PIECE_CHARS + 1), *small_spec().tokens[1:])}, "a piece has at most 256"),
    ],
)
def test_a_vocabulary_that_does_not_fit_together_is_corrupt(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptArtifact, match=message):
        build_tokenizer(small_spec(**changes))


def write(path: Path, spec: TokenizerSpec, *, says_defaults: bool = True, kind: str = "llama") -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(kind)
    writer.add_token_list(list(spec.tokens))
    writer.add_token_types(list(spec.token_types))
    writer.add_token_scores(list(spec.scores))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    if says_defaults:
        writer.add_add_bos_token(spec.add_bos)
        writer.add_add_space_prefix(spec.has_space_prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_file_that_leaves_them_out_means_a_begin_token_and_a_space(tmp_path: Path) -> None:
    silent = read_tokenizer(write(tmp_path / "silent.gguf", small_spec(), says_defaults=False))
    says_no = read_tokenizer(write(tmp_path / "no.gguf", small_spec(has_space_prefix=False, add_bos=False)))

    assert silent.decode(silent.encode("the", add_special=True)) == " the"
    assert silent.encode("the", add_special=True)[0] == 1
    assert says_no.encode("the", add_special=True) == says_no.encode("the")
    assert says_no.decode(says_no.encode("the")) == "the"


def test_ids_of_a_file_equal_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = write(tmp_path / "small.gguf", small_spec())
    tokenizer, reference = read_tokenizer(path), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)

    # transformers leaves the space out where the text has one of its own; SentencePiece and llama.cpp do not.
    for text in TEXTS:
        if not text.startswith(" "):
            assert tokenizer.encode(text, add_special=True) == reference.encode(text), text


def test_other_kinds_of_vocabulary_are_unsupported(tmp_path: Path) -> None:
    path = write(tmp_path / "t5.gguf", small_spec(), kind="t5")

    with pytest.raises(Unsupported, match=r"tokenizer 't5' is not supported; byte-level BPE \('gpt2'\) and"):
        read_tokenizer(path)


@pytest.mark.slow  # transformers takes 16 s to build this tokenizer
def test_ids_of_a_real_vocabulary_equal_transformers(gemma3_metadata_gguf: Path) -> None:
    from transformers import AutoTokenizer

    file = gemma3_metadata_gguf
    tokenizer = read_tokenizer(file)
    reference = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    special = ("<bos>", "<start_of_turn>", "[multimodal]", "<table>")

    # A ▁ that is written out, beside a space: two of them are a token for transformers, and text for llama.cpp.
    texts = [random_text(Random(seed), special).replace("▁", "_") for seed in range(3000)]

    for text in [*TEXTS, *texts]:
        assert tokenizer.encode(text, add_special=True) == reference.encode(text), text
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.vocab_size) == ("<bos>", "<eos>", 262_144)
