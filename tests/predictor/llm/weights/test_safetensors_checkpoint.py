"""Weights of a folder: every tensor as the `safetensors` package reads it, and indexes that lie are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mesh.errors import CorruptArtifact, NotFound, Unsupported
from predictor.llm.weights.safetensors_checkpoint import INDEX_FILE, SINGLE_FILE, SafetensorsCheckpoint
from tests.predictor.llm.model_folders import write_folder

TENSORS = {
    "lm_head.weight": torch.arange(6.0).view(3, 2),
    "model.norm.weight": torch.tensor([0.5, -1.5], dtype=torch.bfloat16),
    "half": torch.tensor([[0.1], [65504.0]], dtype=torch.float16),
    "positions": torch.arange(4),
    "none": torch.empty(0, 5),
    "scalar": torch.tensor(2.5),
}


def open_checkpoint(folder: Path, *, has_tied_embeddings: bool = False) -> SafetensorsCheckpoint:
    return SafetensorsCheckpoint(folder, has_tied_embeddings=has_tied_embeddings)


def write_index(folder: Path, weight_map: Any) -> None:  # Any: wrong types as well
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / SINGLE_FILE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards and an index that is right."""
    names = list(TENSORS)
    for number, part in enumerate((names[:3], names[3:])):
        save_file({name: TENSORS[name] for name in part}, tmp_path / f"part{number}.safetensors")
    write_index(tmp_path, {name: f"part{i // 3}.safetensors" for i, name in enumerate(names)})
    return tmp_path


@pytest.mark.parametrize("layout", ["single", "sharded"])
def test_weights_become_float32(layout: str, request: pytest.FixtureRequest) -> None:
    with open_checkpoint(request.getfixturevalue(layout)) as checkpoint:
        for name, expected in TENSORS.items():
            if expected.is_floating_point():
                tensor = checkpoint.take(name, tuple(expected.shape))
                assert tensor.dtype == np.float32
                assert np.array_equal(tensor, expected.float().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_tensor_of_a_sharded_model_equals_the_package(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_folder(tmp_path, dtype=dtype, max_shard_size="60KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    expected = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}

    with open_checkpoint(folder) as checkpoint:
        taken = {name: checkpoint.take(name, tuple(tensor.shape)) for name, tensor in expected.items()}

    assert len(shards) > 1
    assert all(tensor.dtype == dtype for tensor in expected.values())
    assert all(np.array_equal(taken[name], tensor.float().numpy()) for name, tensor in expected.items())


def test_progress_counts_stored_bytes(single: Path) -> None:
    seen: list[tuple[int, int]] = []
    with SafetensorsCheckpoint(single, has_tied_embeddings=False, progress=lambda *now: seen.append(now)) as checkpoint:
        checkpoint.take("lm_head.weight", (3, 2))
        checkpoint.take("model.norm.weight", (2,))

    assert seen == [(24, 68), (28, 68)]


def test_a_tied_output_matrix_is_not_read(single: Path) -> None:
    with open_checkpoint(single, has_tied_embeddings=True) as tied, open_checkpoint(single) as untied:
        assert not tied.has("lm_head.weight")
        assert untied.has("lm_head.weight")


def test_an_output_matrix_that_is_neither_stored_nor_tied_is_missed(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / SINGLE_FILE)

    with pytest.raises(CorruptArtifact, match=r"tensor 'lm_head\.weight' is missing, and config\.json does not tie it"):
        open_checkpoint(tmp_path)
    open_checkpoint(tmp_path, has_tied_embeddings=True).close()


def test_what_cannot_be_taken_is_named(single: Path) -> None:
    with open_checkpoint(single) as checkpoint:
        with pytest.raises(CorruptArtifact, match="tensor 'absent' is missing"):
            checkpoint.take("absent", (1,))
        with pytest.raises(CorruptArtifact, match=r"has shape \(2, 1\); its configuration needs \(1, 2\)"):
            checkpoint.take("half", (1, 2))
        with pytest.raises(Unsupported, match="'positions' is stored as I64; weights must be F32, F16, BF16"):
            checkpoint.take("positions", (4,))


def test_a_folder_without_weights_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"holds neither model\.safetensors nor model\.safetensors\.index\.json"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        *("../part0.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".hidden.safetensors", "c:\\x.safetensors"),
        *("part0.bin", "part0.safetensors\0", "", 7, None, ["part0.safetensors"], "a" * 300 + ".safetensors"),
    ],
)
def test_a_shard_outside_the_folder_is_corrupt(sharded: Path, name: Any) -> None:
    write_index(sharded, {"half": name})

    with pytest.raises(CorruptArtifact, match="it must be a .safetensors file in the folder"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"half": "absent.safetensors"}, "the shard absent.safetensors that it names does not exist"),
        ({"positions": "part0.safetensors"}, "tensor 'positions' is not in part0.safetensors, where the index says"),
        ({}, "names 0 shards; there must be 1 to 1024"),
        ({f"t{i}": f"s{i}.safetensors" for i in range(1025)}, "names 1025 shards"),
        ([], "'weight_map' is of type list; it must be an object"),
    ],
)
def test_an_index_that_lies_is_corrupt(sharded: Path, weight_map: Any, message: str) -> None:
    write_index(sharded, weight_map)

    with pytest.raises(CorruptArtifact) as caught:
        open_checkpoint(sharded)

    assert message in caught.value.message


def test_a_tensor_named_twice_in_the_index_is_corrupt(sharded: Path) -> None:
    (sharded / INDEX_FILE).write_text('{"weight_map": {"half": "part0.safetensors", "half": "part1.safetensors"}}')

    with pytest.raises(CorruptArtifact, match="key 'half' appears twice"):
        open_checkpoint(sharded)
