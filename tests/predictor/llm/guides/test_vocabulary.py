"""Which tokens a guide can speak of, and how masks are laid out."""

from __future__ import annotations

import pickle

import pytest

from mesh.errors import InvalidInput, Unsupported
from predictor.llm.guides.maker import LlguidanceGuides
from predictor.llm.guides.vocabulary import GuideVocabulary, guide_vocabulary
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.guides.specs import grammar, regex
from tests.predictor.llm.guides.walking import allowed_ids
from tests.predictor.llm.small_tokenizers import small_tokenizer


def test_a_mask_has_a_bit_for_each_token_and_no_more(bytes_tokenizer: Tokenizer) -> None:
    vocabulary = guide_vocabulary(bytes_tokenizer)

    mask = LlguidanceGuides(vocabulary).start(regex("(?s:.)*")).allowed()

    assert len(mask) == vocabulary.num_mask_bytes == -(-bytes_tokenizer.vocab_size // 8)
    assert int.from_bytes(mask, "little").bit_length() <= bytes_tokenizer.vocab_size


@pytest.mark.parametrize("num_tokens", [5, 8, 31, 32, 33, 64])
def test_a_mask_is_as_long_whatever_the_size(num_tokens: int) -> None:
    tokens = (b"", *(b"%c" % (64 + i) for i in range(1, num_tokens)))
    guides = LlguidanceGuides(GuideVocabulary(tokens, {0: "</s>"}, (0,)))

    mask = guides.start(regex("(?s:.)*")).allowed()

    assert len(mask) == -(-num_tokens // 8)
    assert int.from_bytes(mask, "little") == 2**num_tokens - 1


def test_ids_without_text_are_never_allowed_and_equal_texts_always_are() -> None:
    vocabulary = GuideVocabulary((b"", b"a", b"", b"a", b"\xff", b"b"), {0: "</s>"}, (0,))
    guides = LlguidanceGuides(vocabulary)

    assert allowed_ids(guides.start(regex("(?s:.)+"))) == [1, 3, 5]
    guide = guides.start(regex("a"))
    assert allowed_ids(guide) == [1, 3]
    guide.accept(3)
    assert guide.is_complete


def test_a_byte_that_no_text_has_does_not_become_a_special_token() -> None:
    # llguidance marks special tokens with the byte 0xFF.
    guides = LlguidanceGuides(GuideVocabulary((b"", b"\xff<x>", b"x"), {0: "</s>"}, (0,)))

    assert allowed_ids(guides.start(regex("x"))) == [2]
    with pytest.raises(InvalidInput, match="unknown special token"):
        guides.start(grammar("start: <x>"))


def test_the_vocabulary_is_that_of_the_tokenizer(tokenizer: Tokenizer) -> None:
    vocabulary = guide_vocabulary(tokenizer)

    assert len(vocabulary.tokens) == tokenizer.vocab_size
    assert vocabulary.special[2] == "<|im_end|>"
    assert vocabulary.eos_ids == (0, 2)
    assert vocabulary.eos_mask()[0] == 0b101
    assert not any(vocabulary.eos_mask()[1:])
    assert pickle.loads(pickle.dumps(vocabulary)) == vocabulary  # noqa: S301 -- our own bytes


def test_a_model_without_an_end_cannot_be_guided() -> None:
    endless = small_tokenizer(eos_id=None, tokens=("a", "b"), token_types=(1, 1), merges=(), bos_id=None)

    with pytest.raises(Unsupported, match="no end-of-text token"):
        guide_vocabulary(endless)
