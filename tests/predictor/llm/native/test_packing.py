"""A model file laid out for the kernels: what is kept, what becomes int8, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.layers.rotary import RotaryEmbedding
from predictor.llm.model_source import open_model
from predictor.llm.models.config import ModelConfig
from predictor.llm.native.library import Format, KvFormat, NativeLibrary
from predictor.llm.native.packing import PackedModel, pack_matrix, pack_model, padded, rotary_frequencies
from predictor.llm.weights.gguf import BlockFormat
from predictor.llm.weights.stored_tensor import StoredTensor
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import write_folder


def pack(library: NativeLibrary, path: Path) -> PackedModel:
    with open_model(path) as source:
        config = source.read_config()
        with source.open_checkpoint(config, lambda done, total: None) as checkpoint:
            return pack_model(library, config, checkpoint, num_threads=1, kv_format=KvFormat.INT8)


@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [
        (gguf.GGMLQuantizationType.Q4_1, "q4_1+int8"),
        (gguf.GGMLQuantizationType.Q4_0, "q4_0+int8"),
        (gguf.GGMLQuantizationType.Q8_0, "q8_0+int8"),
        (gguf.GGMLQuantizationType.Q5_0, "int8+int8"),
        (gguf.GGMLQuantizationType.F16, "int8+int8"),
        (None, "int8+int8"),
    ],
)
def test_the_dtype_names_the_weights_and_the_activations(
    library: NativeLibrary, tmp_path: Path, quantization: gguf.GGMLQuantizationType | None, dtype: str
) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(quantization=quantization))

    assert pack(library, path).dtype == dtype


def test_tied_embeddings_are_packed_once(library: NativeLibrary, tmp_path: Path) -> None:
    tied = pack(library, write_small_model(tmp_path / "tied.gguf", SmallModel(tied=True)))
    untied = pack(library, write_small_model(tmp_path / "untied.gguf", SmallModel(tied=False)))

    assert tied.config.embedding.data == tied.config.lm_head.data
    assert untied.config.embedding.data != untied.config.lm_head.data


def test_only_qwen2_has_biases(library: NativeLibrary, tmp_path: Path) -> None:
    layers = {kind: pack(library, write_folder(tmp_path / kind, kind)).config.layers for kind in ("llama", "qwen2")}

    assert layers["llama"][0].q_bias is None
    assert layers["qwen2"][1].v_bias is not None


def test_an_unknown_architecture_is_refused_before_anything_is_read(library: NativeLibrary, tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel())
    with open_model(path) as source:
        config = replace(source.read_config(), architecture="mamba")
        with source.open_checkpoint(config, lambda done, total: pytest.fail("read")) as checkpoint:
            with pytest.raises(Unsupported, match="does not compute 'mamba', only llama, mistral, qwen2"):
                pack_model(library, config, checkpoint, num_threads=1, kv_format=KvFormat.INT8)


def test_a_missing_matrix_is_a_corrupt_artifact(library: NativeLibrary, tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(without_tensors=("blk.1.ffn_up.weight",)))

    with pytest.raises(CorruptArtifact, match=r"blk.1.ffn_up.weight' is missing"):
        pack(library, path)


def test_a_q4_0_scale_whose_minimum_is_no_float16_makes_the_matrix_int8(library: NativeLibrary) -> None:
    blocks = np.full((1, 18), 0x88, np.uint8)
    blocks[0, :2] = np.array([9000], np.float16).view(np.uint8)

    matrix, _, name = pack_matrix(library, StoredTensor(blocks.reshape(-1), BlockFormat.Q4_0, (1, 32)))

    assert (matrix.format, name) == (Format.Q8, "int8")


def test_vectors_are_padded_with_zeros() -> None:
    assert padded(np.ones(33, np.float32)).tolist() == [1.0] * 33 + [0.0] * 31


@pytest.mark.parametrize("factors", [(), tuple(range(1, 33))])
def test_rotary_frequencies_are_those_of_the_torch_layer(factors: tuple[float, ...]) -> None:
    config = ModelConfig("llama", 1, 64, 64, 1, 1, 64, 10, 100, 1e-5, 500_000.0, factors)
    rotation = RotaryEmbedding(config, torch.float32, torch.device("cpu")).rotation(torch.tensor([1000]))

    cosines = np.cos(np.float32(1000) * rotary_frequencies(config))

    np.testing.assert_allclose(cosines, rotation.cos[0, 0, :32].numpy(), atol=2e-4)
