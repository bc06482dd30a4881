"""GGUF files as checkpoints: names, row order, configuration, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.weights.gguf import GgufFile
from predictor.llm.weights.gguf_checkpoint import GgufCheckpoint, gguf_name, read_config
from tests.predictor.llm.gguf_files import SmallModel, vocabulary, write_small_model
from tests.predictor.llm.transformers_model import transformers_model


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.norm.weight", "output_norm.weight"),
        ("lm_head.weight", "output.weight"),
        ("model.layers.0.self_attn.q_proj.bias", "blk.0.attn_q.bias"),
        ("model.layers.12.mlp.down_proj.weight", "blk.12.ffn_down.weight"),
    ],
)
def test_names_are_translated(name: str, stored: str) -> None:
    assert gguf_name(name) == stored


def test_configuration_comes_from_the_metadata(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(num_layers=3, num_heads=8, num_kv_heads=2))

    with GgufFile(path) as file:
        config = read_config(file)

    assert (config.architecture, config.num_layers, config.hidden_size) == ("llama", 3, 64)
    assert (config.num_heads, config.num_kv_heads, config.head_dim) == (8, 2, 8)
    assert (config.vocab_size, config.max_context_tokens) == (len(vocabulary()), 512)
    assert config.rms_norm_eps == pytest.approx(1e-5)


def test_query_and_key_rows_return_to_the_order_of_transformers(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel())
    heads = {"q": 4, "k": 2}
    stored = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}

    with GgufFile(path) as file:
        checkpoint = GgufCheckpoint(file, read_config(file))
        taken = {
            name: checkpoint.take(f"model.layers.1.self_attn.{name}_proj.weight", (16 * num_heads, 64))
            for name, num_heads in heads.items()
        }

    for name, num_heads in heads.items():
        # What llama.cpp's converter does to a matrix of transformers gives the stored one.
        halves = taken[name].reshape(num_heads, 2, 8, 64)
        assert np.array_equal(halves.swapaxes(1, 2).reshape(-1, 64), stored[f"blk.1.attn_{name}.weight"])


def test_other_architectures_keep_their_row_order(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(architecture="qwen2"))
    stored = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}

    with GgufFile(path) as file:
        taken = GgufCheckpoint(file, read_config(file)).take("model.layers.0.self_attn.q_proj.weight", (64, 64))

    assert np.array_equal(taken, stored["blk.0.attn_q.weight"])


def test_progress_counts_the_stored_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = write_small_model(tmp_path / "m.gguf", SmallModel())

    with GgufFile(path) as file:
        checkpoint = GgufCheckpoint(file, read_config(file), lambda done, total: seen.append((done, total)))
        checkpoint.take("model.norm.weight", (64,))
        total = sum(info.size_bytes for info in file.tensors.values())

    assert seen == [(256, total)]


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(without_tensors=("blk.1.ffn_up.weight",)))

    with GgufFile(path) as file:
        checkpoint = GgufCheckpoint(file, read_config(file))
        assert not checkpoint.has("model.layers.1.mlp.up_proj.weight")
        with pytest.raises(CorruptArtifact, match=r"tensor 'blk\.1\.ffn_up\.weight' is missing"):
            checkpoint.take("model.layers.1.mlp.up_proj.weight", (96, 64))


def test_a_shape_that_the_configuration_contradicts_is_refused(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel())

    with GgufFile(path) as file:
        checkpoint = GgufCheckpoint(file, read_config(file))
        with pytest.raises(CorruptArtifact, match=r"has shape \(64,\); its configuration needs \(65,\)"):
            checkpoint.take("model.norm.weight", (65,))


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("llama.block_count", 0, CorruptArtifact, "block_count is 0; it must be between 1 and"),
        ("llama.embedding_length", 4_000_000_000, CorruptArtifact, "embedding_length is 4000000000"),
        ("llama.attention.head_count", 3, CorruptArtifact, "3 attention heads are no multiple of 2 KV heads"),
        ("llama.attention.key_length", 15, CorruptArtifact, "head dimension 15 is odd"),
        ("llama.rope.freq_base", -1.0, CorruptArtifact, "rope base -1.0 must be positive"),
        ("llama.rope.freq_base", float("nan"), CorruptArtifact, "must be a finite number"),
        ("llama.rope.dimension_count", 8, Unsupported, "rotating 8 of 16 dimensions"),
        ("llama.rope.scaling.type", "yarn", Unsupported, "rope scaling 'yarn'"),
        ("llama.expert_count", 8, Unsupported, "mixtures of experts"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(
    tmp_path: Path, key: str, value: str | int | float, error: type[Exception], message: str
) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(extra_metadata={key: value}))

    with GgufFile(path) as file, pytest.raises(error) as caught:
        read_config(file)

    assert message in str(caught.value)


def test_an_embedding_is_needed(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(without_tensors=("token_embd.weight",)))

    with GgufFile(path) as file, pytest.raises(CorruptArtifact, match=r"'token_embd\.weight' is missing or no matrix"):
        read_config(file)


def test_taken_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel())
    with GgufFile(path) as file:
        taken = GgufCheckpoint(file, read_config(file)).take("model.norm.weight", (64,))

    assert np.isfinite(taken).all()


def test_every_weight_of_smollm2_equals_the_one_in_transformers(smollm2_gguf: Path, smollm2_oracle: Any) -> None:
    expected = {name: tensor for name, tensor in smollm2_oracle.state_dict().items() if name != "lm_head.weight"}

    with GgufFile(smollm2_gguf) as file:
        checkpoint = GgufCheckpoint(file, read_config(file))
        # The output matrix is the embedding, which transformers names twice.
        assert not checkpoint.has("lm_head.weight")
        for name, tensor in expected.items():
            assert np.array_equal(checkpoint.take(name, tuple(tensor.shape)), tensor.numpy()), name

    assert len(expected) == len(file.tensors)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_weight_of_real_qwen2_equals_the_one_in_transformers(qwen2_gguf: Path) -> None:
    expected = transformers_model(qwen2_gguf).state_dict()

    with GgufFile(qwen2_gguf) as file:
        checkpoint = GgufCheckpoint(file, read_config(file))
        for name, tensor in expected.items():
            assert np.array_equal(checkpoint.take(name, tuple(tensor.shape)), tensor.numpy()), name

    assert len(expected) == len(file.tensors)
