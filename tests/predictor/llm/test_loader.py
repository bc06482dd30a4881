"""Loading: what a file gives, how progress is told, and which settings and files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from mesh.errors import CorruptArtifact, InvalidInput, MeshError, NotFound
from predictor.llm.loader import cpu_multiplies_bfloat16, load_model, resolve_dtype
from predictor.llm.model_source import describe
from predictor.llm.tokenizer_file import read_tokenizer
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.logits import all_logits
from tests.predictor.llm.model_folders import write_folder

CPU = torch.device("cpu")


@pytest.fixture
def small_gguf(tmp_path: Path) -> Path:
    return write_small_model(tmp_path / "small.gguf", SmallModel())


def test_a_file_becomes_config_model_and_tokenizer(small_gguf: Path) -> None:
    loaded = load_model(small_gguf, num_threads=1, dtype="float32")

    assert loaded.config == describe(small_gguf)
    assert loaded.config.num_layers == 2
    assert loaded.tokenizer.encode("the") == read_tokenizer(small_gguf).encode("the")
    assert (loaded.dtype, loaded.device) == (torch.float32, CPU)


def test_progress_ends_with_all_bytes(small_gguf: Path) -> None:
    seen: list[tuple[int, int]] = []

    load_model(small_gguf, num_threads=1, progress=lambda done, total: seen.append((done, total)))

    done, totals = zip(*seen, strict=True)
    assert list(done) == sorted(done)
    assert len(set(totals)) == 1
    assert done[-1] == totals[0]


def test_threads_are_set(small_gguf: Path) -> None:
    before = torch.get_num_threads()
    try:
        load_model(small_gguf, num_threads=1)

        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_auto_is_bfloat16_where_the_hardware_multiplies_it() -> None:
    expected = torch.bfloat16 if cpu_multiplies_bfloat16() else torch.float32

    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16
    assert resolve_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int3"}, "dtype is 'int3'; it must be one of auto, float32, bfloat16"),
        ({"device": "abacus"}, "device is 'abacus'; it must be cpu, cuda or cuda:<index>"),
        ({"num_threads": 0}, "num_threads is 0; it must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(small_gguf: Path, settings: dict[str, str | int], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        load_model(small_gguf, **({"num_threads": 1} | settings))  # type: ignore[arg-type]

    assert caught.value.message == message


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_refused(small_gguf: Path) -> None:
    with pytest.raises(InvalidInput, match="this process sees no CUDA device"):
        load_model(small_gguf, num_threads=1, device="cuda")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        load_model(tmp_path / "absent.gguf", num_threads=1)


def test_an_unknown_architecture_is_answered_before_its_keys_are_read(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(architecture="mamba"))

    for read in (describe, lambda path: load_model(path, num_threads=1)):
        with pytest.raises(NotFound, match="unknown model architecture 'mamba'; known are: llama, mistral, qwen2"):
            read(path)


def test_a_layer_count_beyond_the_file_is_corrupt(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "m.gguf", SmallModel(extra_metadata={"llama.block_count": 1 << 20}))

    with pytest.raises(CorruptArtifact, match=r"tensor 'blk\.2\.attn_norm\.weight' is missing"):
        load_model(path, num_threads=1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_corrupt(small_gguf: Path, share: float) -> None:
    content = small_gguf.read_bytes()
    small_gguf.write_bytes(content[: int(len(content) * share)])

    for read in (describe, read_tokenizer, lambda path: load_model(path, num_threads=1)):
        with pytest.raises(MeshError) as caught:
            read(small_gguf)
        assert isinstance(caught.value, CorruptArtifact)


@pytest.mark.parametrize(
    ("model_type", "dtype", "max_shard_size", "changes"),
    [
        ("llama", torch.float32, "60KB", {}),
        ("llama", torch.bfloat16, "5GB", {"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 5e5}}),
        ("llama", torch.float16, "60KB", {"head_dim": 32, "num_key_value_heads": 1}),
        ("mistral", torch.float32, "5GB", {"sliding_window": 200}),
        ("qwen2", torch.float32, "60KB", {}),
        ("qwen2", torch.bfloat16, "5GB", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    ],
)
def test_logits_of_a_folder_equal_transformers(
    tmp_path: Path, model_type: str, dtype: torch.dtype, max_shard_size: str, changes: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path, model_type, dtype=dtype, max_shard_size=max_shard_size, changes=changes)
    token_ids = torch.randint(0, 380, (90,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        expected = reference(torch.tensor([token_ids])).logits[0]

    logits = all_logits(load_model(folder, num_threads=1, dtype="float32"), token_ids)

    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "small", max_shard_size="60KB")


def test_a_folder_becomes_config_model_and_tokenizer(small_folder: Path) -> None:
    seen: list[tuple[int, int]] = []

    loaded = load_model(small_folder, num_threads=1, dtype="float32", progress=lambda *now: seen.append(now))

    assert loaded.config == describe(small_folder)
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("the dog")) == "the dog"
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model_type": "mamba"}, NotFound, "unknown model architecture 'mamba'; known are: llama, mistral, qwen2"),
        ({"model_type": None}, CorruptArtifact, "config.json: 'model_type' is missing"),
        ({"num_hidden_layers": 3}, CorruptArtifact, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
        ({"vocab_size": 1 << 24}, CorruptArtifact, "its configuration needs (16777216, 64)"),
        ({"vocab_size": 300}, CorruptArtifact, "tokens, the embedding only 300"),
    ],
)
def test_a_folder_that_does_not_fit_together_is_refused(
    small_folder: Path, changes: dict[str, Any], error: type[MeshError], message: str
) -> None:
    file = small_folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    with pytest.raises(error) as caught:
        load_model(small_folder, num_threads=1)

    assert message in caught.value.message


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_shard_is_corrupt(small_folder: Path, share: float) -> None:
    shard = min(small_folder.glob("model-*.safetensors"))
    content = shard.read_bytes()
    shard.write_bytes(content[: int(len(content) * share)])

    with pytest.raises(CorruptArtifact, match=shard.name):
        load_model(small_folder, num_threads=1)


def test_an_empty_folder_is_not_found(tmp_path: Path) -> None:
    for read in (describe, read_tokenizer, lambda path: load_model(path, num_threads=1)):
        with pytest.raises(NotFound, match="does not exist"):
            read(tmp_path)
