"""A model is opened, described and read without torch, whatever file it lies in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mesh.errors import NotFound
from predictor.llm.model_source import describe, open_model
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import write_folder

READ_ALL = """
import sys
from pathlib import Path
from predictor.llm.model_source import open_model
with open_model(Path(sys.argv[1])) as source:
    config, tokenizer = source.read_matching("m")
    with source.open_checkpoint(config, lambda done, total: None) as checkpoint:
        weight = checkpoint.take("model.norm.weight", (config.hidden_size,))
print(config.num_layers, weight.dtype, 'torch' in sys.modules)
"""


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_reading_a_model_brings_no_torch(tmp_path: Path, kind: str) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel()) if kind == "gguf" else write_folder(tmp_path / "m")

    run = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(path)], capture_output=True, text=True, check=True, timeout=60
    )

    assert run.stdout.split() == ["2", "float32", "False"]


def test_a_description_is_the_configuration(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel())

    with open_model(path) as source:
        assert describe(path) == source.read_config()


def test_an_architecture_that_nobody_knows_is_named(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(architecture="mamba"))

    with pytest.raises(NotFound, match="unknown model architecture 'mamba'; known are: llama, mistral, qwen2"):
        describe(path)
