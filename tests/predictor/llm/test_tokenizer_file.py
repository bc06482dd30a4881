"""A tokenizer by path: a folder and a file give one each, and torch stays out of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import NotFound
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import byte_level_encoder, write_tokenizer


def test_a_folder_and_a_file_are_told_apart(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, byte_level_encoder())
    file = write_small_model(tmp_path / "small.gguf", SmallModel())

    for path in (tmp_path, file):
        tokenizer = read_tokenizer(path)
        assert tokenizer.decode(tokenizer.encode("the dog")) == "the dog"


def test_a_path_to_nothing_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read_tokenizer(tmp_path / "absent")


def test_torch_is_not_imported() -> None:
    program = "import predictor.llm.tokenizer_file, sys; sys.exit('torch' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
