"""Texts as tokens: special tokens around them, the limit in tokens, pairs, and files that fit no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.errors import CorruptArtifact, InvalidInput, NotFound, PromptTooLong
from predictor.encoder.tokenizer import EncoderTokenizer, check_room, read_encoder
from tests.predictor.small_encoders import bert_tokenizer


def tokenizer(**changes: Any) -> EncoderTokenizer:
    settings: dict[str, Any] = {"max_tokens": 6, "truncates": False} | changes
    return EncoderTokenizer(bert_tokenizer(), **settings)


def words(made: EncoderTokenizer, *inputs: str | tuple[str, str]) -> list[list[str]]:
    vocabulary = {i: token for token, i in bert_tokenizer().get_vocab().items()}
    return [[vocabulary[int(i)] for i in one.ids] for one in made.encode(inputs, "text")]


def test_special_tokens_stand_around_a_text_without_padding_and_spaces_do_not_count() -> None:
    assert words(tokenizer(), "  a lazy dog\n", "") == [["[CLS]", "a", "lazy", "dog", "[SEP]"], ["[CLS]", "[SEP]"]]


def test_second_text_has_a_type_of_its_own_where_the_model_knows_types() -> None:
    (pair,) = tokenizer().encode([("a", "dog")], "document")
    (plain,) = tokenizer(has_token_types=False).encode([("a", "dog")], "document")

    assert pair.type_ids.tolist() == [0, 0, 0, 1, 1]
    assert plain.type_ids.tolist() == [0, 0, 0, 0, 0]
    assert plain.ids.tolist() == pair.ids.tolist()


def test_text_that_is_too_long_is_refused_by_its_place() -> None:
    with pytest.raises(PromptTooLong) as caught:
        tokenizer().encode(["a dog", "the quick brown fox jumps"], "text", first_index=10)

    assert caught.value.message == "text[11] has 7 tokens; the model takes 6"
    assert caught.value.field == "text[11]"


def test_text_that_is_too_long_is_cut_where_that_was_asked_for() -> None:
    made = tokenizer(truncates=True)

    assert words(made, "the quick brown fox jumps") == [["[CLS]", "the", "quick", "brown", "fox", "[SEP]"]]


def test_the_longer_text_of_a_pair_is_cut() -> None:
    made = tokenizer(max_tokens=7, truncates=True)

    assert words(made, ("a", "the quick brown fox jumps")) == [
        ["[CLS]", "a", "[SEP]", "the", "quick", "brown", "[SEP]"]
    ]


def test_lower_case_is_made_before_the_text_is_cut() -> None:
    plain = bert_tokenizer()
    plain.normalizer = None

    made = EncoderTokenizer(plain, max_tokens=9, truncates=False, lower_case=True)

    assert words(made, "A DOG") == [["[CLS]", "a", "dog", "[SEP]"]]


def test_room_for_more_than_special_tokens_is_needed() -> None:
    check_room(bert_tokenizer(), 3, is_pair=False)

    with pytest.raises(InvalidInput, match="option 'max_tokens' is 3; 3 of an input's tokens are special ones"):
        check_room(bert_tokenizer(), 3, is_pair=True)


def test_file_of_a_tokenizer_is_held_against_the_model(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="tokenizer.json"):
        read_encoder(tmp_path, 100)
    bert_tokenizer().save(str(tmp_path / "tokenizer.json"))
    size = bert_tokenizer().get_vocab_size()

    assert read_encoder(tmp_path, size).get_vocab_size() == size
    with pytest.raises(CorruptArtifact, match=f"ids go up to {size - 1}; the model has embeddings for {size - 1}"):
        read_encoder(tmp_path, size - 1)


@pytest.mark.parametrize("content", ["", "{}", "[" * 100_000, '{"model": {"type": "WordPiece"}}'])
def test_broken_file_of_a_tokenizer_is_corrupt(tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)

    with pytest.raises(CorruptArtifact, match="tokenizer.json"):
        read_encoder(tmp_path, 100)
