"""Opening a model folder: its limit in tokens, its dtype, and everything that may be missing or broken in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.encoder.folder import longest_input, open_folder
from tests.predictor.small_encoders import change_json, write_encoder, write_json


def test_longest_input_is_what_the_tokenizer_declares_within_the_positions(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    assert open_folder(folder).max_tokens == 40

    for declared, expected in ((20, 20), (10**30, 40), (0, 1)):
        write_json(folder / "tokenizer_config.json", {"model_max_length": declared})
        assert open_folder(folder).max_tokens == expected


def test_longest_input_may_be_asked_for_up_to_the_positions(tmp_path: Path) -> None:
    config = open_folder(write_encoder(tmp_path)).config

    assert longest_input(0, 16, config) == 16
    assert longest_input(0, 999, config) == 40
    assert longest_input(40, 16, config) == 40
    with pytest.raises(InvalidInput, match="option 'max_tokens' is 41; the model has positions for 40 tokens"):
        longest_input(41, 16, config)


def test_bfloat16_takes_half_the_memory(tmp_path: Path) -> None:
    opened = open_folder(write_encoder(tmp_path))

    sizes = [opened.load(dtype, lambda encoder, _: encoder)[1] for dtype in (torch.float32, torch.bfloat16)]

    assert sizes[0] == 2 * sizes[1]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_broken_folder_is_corrupt(tmp_path: Path, name: str, damage: str) -> None:
    path = write_encoder(tmp_path) / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-20])

    with pytest.raises(CorruptArtifact) as caught:
        open_folder(tmp_path).load(torch.float32, lambda encoder, _: encoder)

    assert str(tmp_path.parent) not in caught.value.message


def test_file_is_no_folder(tmp_path: Path) -> None:
    write_encoder(tmp_path)

    with pytest.raises(CorruptArtifact, match=r"an encoder is a folder with config.json; 'config.json' is no folder"):
        open_folder(tmp_path / "config.json")


def test_settings_of_the_tokenizer_that_make_no_sense_are_corrupt(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    change_json(folder / "config.json", model_type="bert")
    write_json(folder / "tokenizer_config.json", {"model_max_length": "long"})

    with pytest.raises(CorruptArtifact, match="'model_max_length' is of type str"):
        open_folder(folder)
