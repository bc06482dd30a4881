"""Thousands of damaged model files: each loads and runs, or is refused by one of our errors, soon and in little memory.

The damage is of bytes, counts, lengths, offsets, types, nested arrays and, in JSON, of whole values (`mutations`). GGUF
and safetensors have no references, so there is no cycle to follow; nesting is what comes nearest to one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import gguf
import pytest

from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import write_folder
from tests.predictor.llm.weights.mutations import MEMORY_BYTES, damage_model

LIMIT_S = 5.0  # a load takes 2 ms; the machine may be busy
NUM_GGUF, NUM_FOLDERS = 3000, 2000


def run(code: list[str]) -> str:
    done = subprocess.run([sys.executable, *code], capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def outcomes(path: Path, count: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(["-m", "tests.predictor.llm.weights.mutations", str(path), "0", str(count)]))
    return found


def assert_refused_or_loaded(found: dict[str, Any], count: int) -> None:
    assert found["surprises"] == []
    assert sum(found["kinds"].values()) == count
    assert found["slowest_s"] < LIMIT_S, f"seed {found['slowest_seed']}"
    # Damage that breaks everything, or nothing, would test nothing.
    assert found["kinds"]["loaded"] > count / 50
    assert found["kinds"]["CorruptArtifact"] > count / 2


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["gpt2", "llama"])
def test_a_damaged_gguf_file_is_refused_or_loads(tmp_path: Path, tokenizer: str) -> None:
    model = SmallModel(
        num_layers=1,
        hidden_size=32,
        intermediate_size=64,
        quantization=gguf.GGMLQuantizationType.Q4_1,
        tokenizer=tokenizer,
    )
    path = write_small_model(tmp_path / "small.gguf", model)

    assert_refused_or_loaded(outcomes(path, NUM_GGUF), NUM_GGUF)


@pytest.mark.slow
def test_a_damaged_folder_is_refused_or_loads(tmp_path: Path) -> None:
    changes = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 48}
    folder = write_folder(tmp_path / "small", max_shard_size="30KB", changes=changes)

    assert_refused_or_loaded(outcomes(folder, NUM_FOLDERS), NUM_FOLDERS)


def test_the_same_seed_does_the_same_damage(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(num_layers=1))
    first, second = (damage_model(path, tmp_path / name, Random(5)).read_bytes() for name in ("a", "b"))

    assert first == second != path.read_bytes()


@pytest.mark.parametrize("allocation", ["bytearray({size})", "__import__('torch').empty({size}, dtype=torch.uint8)"])
def test_memory_is_limited_there(allocation: str) -> None:
    code = (
        "import torch\n"
        "from tests.predictor.llm.weights.mutations import limit_memory\n"
        "limit_memory()\n"
        "try:\n"
        f"    {allocation.format(size=MEMORY_BYTES * 2)}\n"
        "except (MemoryError, RuntimeError) as error:\n"
        "    print('refused')\n"
    )

    assert run(["-c", code]).strip() == "refused"
