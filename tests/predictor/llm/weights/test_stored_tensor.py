"""A tensor as stored, and as float32."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from predictor.llm.model_source import open_model
from predictor.llm.weights.gguf import BlockFormat
from predictor.llm.weights.stored_tensor import StoredTensor
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import write_folder


def test_blocks_become_float32() -> None:
    values = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)

    tensor = StoredTensor(blocks.reshape(-1), BlockFormat.Q4_1, (3, 64)).to_float32()

    np.testing.assert_array_equal(tensor, gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q4_1))


@pytest.mark.parametrize("name", ["model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight"])
@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_both_roads_out_of_a_checkpoint_agree(tmp_path: Path, kind: str, name: str) -> None:
    """Also for q and k, whose rows a GGUF file of this architecture holds in another order."""
    quantization = gguf.GGMLQuantizationType.Q4_1
    path = (
        write_small_model(tmp_path / "small.gguf", SmallModel(quantization=quantization))
        if kind == "gguf"
        else write_folder(tmp_path / "model")
    )
    rows = 64 if ".q_proj" in name else 32
    with open_model(path) as source:
        with source.open_checkpoint(source.read_config(), lambda done, total: None) as checkpoint:
            stored = checkpoint.take_stored(name, (rows, 64))
            taken = checkpoint.take(name, (rows, 64))

            assert stored.block_format is (BlockFormat.Q4_1 if kind == "gguf" else BlockFormat.F32)
            assert np.array_equal(stored.to_float32(), taken)
            del stored  # before the file is closed
