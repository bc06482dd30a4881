"""The tokenizer of a folder: ids and text as transformers has them, bytes for both kinds of BPE, bad files refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Encoder
from tokenizers import decoders
from tokenizers.models import BPE, WordLevel

from mesh.errors import CorruptArtifact, NotFound, Unsupported
from predictor.llm.json_tokenizer import read_tokenizer_folder
from predictor.llm.tokenizer import Tokenizer
from tests.predictor.llm.model_folders import CHATML, byte_level_encoder, sentencepiece_encoder, write_tokenizer
from tests.predictor.llm.small_tokenizers import TEXTS

KINDS: dict[str, Callable[[], Encoder]] = {"byte-level": byte_level_encoder, "sentencepiece": sentencepiece_encoder}


@pytest.fixture(scope="module", params=list(KINDS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    """Ours and transformers', of the same folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    reference = write_tokenizer(folder, KINDS[request.param]())
    return read_tokenizer_folder(folder), reference


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path, byte_level_encoder())
    return tmp_path


def change(path: Path, **changes: Any) -> None:  # Any: values of JSON
    values = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(values | changes))


@pytest.mark.parametrize("text", TEXTS)
def test_ids_equal_transformers(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = pair

    assert ours.encode(text) == reference.encode(text, add_special_tokens=False)
    assert ours.encode(text, add_special=True) == reference.encode(text)


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_of_tokens_join_to_the_text(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = pair
    ids = ours.encode(text)

    joined = b"".join(ours.id_to_bytes(i) for i in ids).decode()

    # SentencePiece puts a space before a text; transformers takes it away again.
    plain = reference.decode(ids, skip_special_tokens=True)
    assert joined in (plain, f" {plain}")
    assert joined == ours.decode(ids)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters="▁")))
def test_any_text_survives_the_round_trip(pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, _ = pair

    decoded = ours.decode(ours.encode(text), skip_special=False)

    assert decoded in (text, f" {text}")  # SentencePiece puts a space before a text


def test_facts_come_from_the_files(pair: tuple[Tokenizer, Any]) -> None:
    ours, reference = pair
    special = reference.convert_tokens_to_ids(["<s>", "</s>", "<|im_end|>"])

    assert ours.vocab_size == len(reference)
    assert (ours.bos_token, ours.eos_token) == ("<s>", "</s>")
    assert (ours.bos_id, ours.eos_id) == (special[0], special[1])
    assert ours.eos_ids == {special[1], special[2]}
    assert ours.special_ids >= set(special)
    assert ours.chat_template == CHATML


def test_special_tokens_are_silent_and_added_ones_have_text(folder: Path) -> None:
    tokenizer = read_tokenizer_folder(folder)
    bos, tool = tokenizer.encode("<s><tool>")

    assert tokenizer.id_to_bytes(bos) == b""
    assert tokenizer.id_to_bytes(tool) == b"<tool>"


def test_limits_from_training_do_not_cut_or_pad(folder: Path) -> None:
    encoder = byte_level_encoder()
    encoder.enable_truncation(4)
    encoder.enable_padding(length=8)
    encoder.save(str(folder / "tokenizer.json"))

    tokenizer = read_tokenizer_folder(folder)

    assert tokenizer.decode(tokenizer.encode("a text of more than four tokens")) == "a text of more than four tokens"


def test_ends_of_turn_come_from_generation_config_then_config(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token=None, bos_token={"content": "</s>"})
    change(folder / "config.json", eos_token_id=5)
    assert (read_tokenizer_folder(folder).eos_id, read_tokenizer_folder(folder).bos_token) == (5, "</s>")

    change(folder / "generation_config.json", eos_token_id=[7, 9])
    tokenizer = read_tokenizer_folder(folder)

    assert tokenizer.eos_id == 7
    assert tokenizer.eos_ids >= {7, 9}
    assert 5 not in tokenizer.eos_ids


def test_a_template_file_wins_over_a_list_over_nothing(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert read_tokenizer_folder(folder).chat_template is None
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    change(folder / "tokenizer_config.json", chat_template=named)
    assert read_tokenizer_folder(folder).chat_template == "D"
    change(folder / "tokenizer_config.json", chat_template="S")
    assert read_tokenizer_folder(folder).chat_template == "S"

    (folder / "chat_template.jinja").write_text("{{ häßlich }}", encoding="utf-8")

    assert read_tokenizer_folder(folder).chat_template == "{{ häßlich }}"


def test_a_folder_without_tokenizer_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="model file 'tokenizer.json' does not exist"):
        read_tokenizer_folder(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}, "tokenizer.json: "),
        ("tokenizer.json", {"model": 3}, "tokenizer.json: "),
        (
            "tokenizer.json",
            {"model": {"type": "BPE", "vocab": {"a": 1 << 31}, "merges": []}},
            "ids go up to 2147483648",
        ),
        ("tokenizer_config.json", {"eos_token": "<none>"}, "'eos_token' is '<none>', which is not in the vocabulary"),
        ("tokenizer_config.json", {"eos_token": 3}, "'eos_token' is of type int; it must be a string"),
        ("tokenizer_config.json", {"bos_token": {}}, "'bos_token': 'content' is missing"),
        ("generation_config.json", {"eos_token_id": [1, 1 << 40]}, "'eos_token_id' holds '1099511627776'"),
        ("config.json", {"bos_token_id": "1"}, "it must be an id of the"),
    ],
)
def test_files_that_do_not_fit_are_corrupt(folder: Path, file: str, changes: dict[str, Any], message: str) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    change(folder / file, **changes)

    with pytest.raises(CorruptArtifact) as caught:
        read_tokenizer_folder(folder)

    assert message in caught.value.message


def test_a_template_that_is_not_utf_8_is_corrupt(folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(b"\xff")

    with pytest.raises(CorruptArtifact, match=r"chat_template\.jinja: not UTF-8"):
        read_tokenizer_folder(folder)


def test_other_kinds_of_tokenizer_are_unsupported(tmp_path: Path) -> None:
    Encoder(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Unsupported, match="model 'WordLevel' is not supported; only 'BPE' is"):
        read_tokenizer_folder(tmp_path)

    encoder = Encoder(BPE({"a": 0}, []))
    encoder.decoder = decoders.WordPiece()
    encoder.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Unsupported, match="decoder .'WordPiece'. is not supported; it must hold ByteLevel"):
        read_tokenizer_folder(tmp_path)
