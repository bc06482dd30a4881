"""The tokenizer that a GGUF file describes: its parts must fit together, and its words are those of transformers."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.gguf_tokenizer import build_tokenizer
from tests.predictor.llm.gguf_files import vocabulary
from tests.predictor.llm.small_tokenizers import TEXTS, small_spec, small_tokenizer


def test_begin_of_sequence_is_added_where_the_model_wants_it() -> None:
    wants = small_tokenizer(add_bos=True)

    assert wants.encode("the", add_special=True) == [1, *wants.encode("the")]
    assert small_tokenizer().encode("the", add_special=True) == small_tokenizer().encode("the")


def test_user_defined_tokens_have_text() -> None:
    types = (3, 4, *small_spec().token_types[2:])
    tokenizer = small_tokenizer(token_types=types)

    assert tokenizer.encode("<|im_start|>the")[0] == 1
    assert tokenizer.id_to_bytes(1) == b"<|im_start|>"
    assert tokenizer.decode([1]) == "<|im_start|>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_types": (1,)}, "263 tokens|types; there must be one type per token"),
        ({"tokens": ("a",) * len(vocabulary())}, "the tokenizer repeats"),
        ({"merges": ("nospace",)}, "merge 'nospace' is not two tokens"),
        ({"merges": ("q zq",)}, "merges do not fit its vocabulary"),
    ],
)
def test_a_specification_that_does_not_fit_together_is_corrupt(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CorruptArtifact, match=message):
        small_tokenizer(**changes)


def test_an_unknown_pre_tokenizer_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"'tekken' is not supported; supported are smollm, qwen2, gpt-2"):
        small_tokenizer(pre="tekken")


@pytest.mark.parametrize("text", [text for text in TEXTS if "<|" not in text])
def test_qwen2_splits_words_as_transformers_does(text: str) -> None:
    from transformers.convert_slow_tokenizer import Qwen2Converter

    spec = small_spec(pre="qwen2")
    merges = [tuple(merge.split(" ")) for merge in spec.merges]
    converter: Any = Qwen2Converter(None)
    reference = converter.converted({token: i for i, token in enumerate(spec.tokens)}, merges)

    assert build_tokenizer(spec).encode(text) == reference.encode(text).ids
