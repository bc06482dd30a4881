"""The tokenizer against that of transformers, and what streaming needs of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import CorruptArtifact, InvalidInput, Unsupported
from predictor.llm.loader import read_tokenizer
from predictor.llm.tokenizer import Tokenizer, TokenizerSpec
from tests.predictor.llm.gguf_files import MERGES, SPECIAL_TOKENS, vocabulary

TEXTS = [
    "",
    "Hello, world!",
    " leading and trailing ",
    "The year 2024 had 366 days; 3.14159 is pi.",
    "tabs\tand\n\nnewlines\r\n",
    "def f(x):\n    return x ** 2  # square\n",
    "Ein häßlicher Fußgängerüberweg",
    "日本語のテキスト и немного русского",
    "emoji 😀👩‍👩‍👧 and e\u0301 combining",
    "<|im_start|>user\nWhat is 12+34?<|im_end|>\n<|im_start|>assistant\n",
    "don't won't I'll we've",
    "a" * 300,
    "\x00\x01 control",
]


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return read_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def reference(smollm2_gguf: Path) -> Any:  # transformers' tokenizers have no types
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)


def small_spec(**changes: Any) -> TokenizerSpec:  # Any: fields of the spec
    tokens = vocabulary()
    spec = TokenizerSpec(
        tokens=tuple(tokens),
        token_types=(3,) * len(SPECIAL_TOKENS) + (1,) * (len(tokens) - len(SPECIAL_TOKENS)),
        merges=MERGES,
        pre="smollm",
        bos_id=1,
        eos_id=2,
        add_bos=False,
        chat_template=None,
    )
    return replace(spec, **changes)


SMALL = Tokenizer(small_spec())


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


def test_begin_of_sequence_is_added_where_the_model_wants_it() -> None:
    wants = Tokenizer(small_spec(add_bos=True))

    assert wants.encode("the", add_special=True) == [1, *wants.encode("the")]
    assert SMALL.encode("the", add_special=True) == SMALL.encode("the")


def test_user_defined_tokens_have_text() -> None:
    types = (3, 4, *small_spec().token_types[2:])
    tokenizer = Tokenizer(small_spec(token_types=types))

    assert tokenizer.encode("<|im_start|>the")[0] == 1
    assert tokenizer.id_to_bytes(1) == b"<|im_start|>"
    assert tokenizer.decode([1]) == "<|im_start|>"


@pytest.mark.parametrize("token_id", [-1, SMALL.vocab_size])
def test_ids_outside_the_vocabulary_are_refused(token_id: int) -> None:
    with pytest.raises(InvalidInput, match=f"token id {token_id} is outside the vocabulary of {SMALL.vocab_size}"):
        SMALL.decode([token_id])


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        SMALL.encode("a\ud800")


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
        Tokenizer(small_spec(**changes))


def test_an_unknown_pre_tokenizer_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"'tekken' is not supported; supported are smollm, qwen2, gpt-2"):
        Tokenizer(small_spec(pre="tekken"))


@pytest.mark.parametrize("text", [text for text in TEXTS if "<|" not in text])
def test_qwen2_splits_words_as_transformers_does(text: str) -> None:
    from transformers.convert_slow_tokenizer import Qwen2Converter

    spec = small_spec(pre="qwen2")
    merges = [tuple(merge.split(" ")) for merge in spec.merges]
    converter: Any = Qwen2Converter(None)
    reference = converter.converted({token: i for i, token in enumerate(spec.tokens)}, merges)

    assert Tokenizer(spec).encode(text) == reference.encode(text).ids
