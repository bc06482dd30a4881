"""The tokenizer against that of transformers, and what streaming needs of it."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from predictor.llm.tokenizer import Tokenizer
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.gguf_files import SPECIAL_TOKENS
from tests.predictor.llm.small_tokenizers import TEXTS, small_tokenizer


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return read_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> Any:  # transformers' tokenizers have no types
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


SMALL = small_tokenizer()


@pytest.mark.parametrize("text", TEXTS)
def test_ids_and_text_equal_transformers(smollm2: Tokenizer, reference: Any, text: str) -> None:
    ids = smollm2.encode(text)

    assert ids == reference.encode(text)
    for skip_special in (True, False):
        assert smollm2.decode(ids, skip_special=skip_special) == reference.decode(ids, skip_special_tokens=skip_special)


def test_facts_come_from_the_file(smollm2: Tokenizer, reference: Any) -> None:
    assert smollm2.vocab_size == 49152
    assert (smollm2.bos_token, smollm2.bos_id) == ("<|im_start|>", 1)
    assert (smollm2.eos_token, smollm2.eos_id) == ("<|im_end|>", 2)
    assert smollm2.eos_ids == {0, 2}
    assert smollm2.special_ids == set(range(17))
    assert smollm2.chat_template == reference.chat_template


def test_digits_of_every_script_stand_alone(smollm2: Tokenizer) -> None:
    assert [smollm2.decode([i]) for i in smollm2.encode("a12b")] == ["a", "1", "2", "b"]
    joined, alone = smollm2.encode("٣٤"), smollm2.encode("٣") + smollm2.encode("٤")
    assert joined == alone


def test_construction_is_cheap(smollm2_gguf: Path) -> None:
    # Two processes build one each at start. The limit is lenient, because the machine may be busy.
    start = perf_counter()

    read_tokenizer(smollm2_gguf)

    assert perf_counter() - start < 3


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert SMALL.decode(SMALL.encode(text), skip_special=False) == text


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_bytes_of_tokens_join_to_the_text(text: str) -> None:
    ids = [i for i in SMALL.encode(text) if i not in SMALL.special_ids]

    plain = text
    for special in SPECIAL_TOKENS:
        plain = plain.replace(special, "")
    assert b"".join(SMALL.id_to_bytes(i) for i in ids) == plain.encode()


def test_special_tokens_are_recognised_and_silent() -> None:
    ids = SMALL.encode("<|im_start|>the")

    assert ids[0] == 1
    assert SMALL.id_to_bytes(1) == b""
    assert SMALL.decode(ids) == "the"


def test_broken_bytes_become_replacement_characters() -> None:
    first_byte_of_two = SMALL.encode("é")[0]

    assert SMALL.decode([first_byte_of_two]) == "\ufffd"


@pytest.mark.parametrize("token_id", [-1, SMALL.vocab_size])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    with pytest.raises(InvalidInput, match=f"token id {token_id} is outside the vocabulary of {SMALL.vocab_size}"):
        SMALL.decode([token_id])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        SMALL.encode("a\ud800")
