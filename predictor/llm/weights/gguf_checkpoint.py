"""A GGUF file as a `Checkpoint`: its configuration, and its tensors by the names and layouts of `transformers`.

Knows llama.cpp's names and the one change that it makes to weights: for the llama architecture the rows of q and k are
permuted within each head, to suit a rotary embedding of neighbouring pairs; that is undone here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mesh.errors import CorruptArtifact, Unsupported
from predictor.llm.models.config import MAX_DIMENSION, ModelConfig, check_config
from predictor.llm.weights.dequantize import dequantize
from predictor.llm.weights.gguf import GgufFile
from predictor.llm.weights.stored_tensor import StoredTensor

_MODEL_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_PERMUTED_ARCHITECTURES = frozenset({"llama"})


class GgufCheckpoint:
    """Takes tensors out of an open `GgufFile`; reports the stored bytes taken so far through `progress`."""

    def __init__(
        self, file: GgufFile, config: ModelConfig, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> None:
        self._file = file
        self._config = config
        self._progress = progress
        self._done_bytes = 0
        self._total_bytes = sum(info.size_bytes for info in file.tensors.values())

    def has(self, name: str) -> bool:
        return gguf_name(name) in self._file.tensors

    def take(self, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        return self.take_stored(name, shape).to_float32()

    def take_stored(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        stored_name = gguf_name(name)
        info = self._file.tensors.get(stored_name)
        if info is None:
            raise CorruptArtifact(f"{self._file.name}: tensor {stored_name!r} is missing")
        if info.shape != shape:
            raise CorruptArtifact(
                f"{self._file.name}: tensor {stored_name!r} has shape {info.shape}; its configuration needs {shape}"
            )
        self._done_bytes += info.size_bytes
        self._progress(self._done_bytes, self._total_bytes)
        return StoredTensor(self._unpermuted(name, self._file.blocks(stored_name), shape[0]), info.block_format, shape)

    def _unpermuted(self, name: str, blocks: npt.NDArray[np.uint8], num_rows: int) -> npt.NDArray[np.uint8]:
        if self._config.architecture not in _PERMUTED_ARCHITECTURES:
            return blocks
        if ".q_proj." in name:
            return _undo_rotary_permutation(blocks, num_rows, self._config.num_heads)
        if ".k_proj." in name:
            return _undo_rotary_permutation(blocks, num_rows, self._config.num_kv_heads)
        return blocks


def _undo_rotary_permutation(blocks: npt.NDArray[np.uint8], num_rows: int, num_heads: int) -> npt.NDArray[np.uint8]:
    """Rows of each head from (pair, half) order back to (half, pair). No block reaches from one row into the next."""
    pairs = blocks.reshape(num_heads, num_rows // num_heads // 2, 2, -1)
    return pairs.swapaxes(1, 2).reshape(-1)


def gguf_name(name: str) -> str:
    """llama.cpp's name for a tensor; KeyError for a name that no model here uses."""
    module, _, kind = name.rpartition(".")
    if not module.startswith("model.layers."):
        return f"{_MODEL_NAMES[module]}.{kind}"
    _, _, layer, layer_module = module.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[layer_module]}.{kind}"


def read_config(file: GgufFile) -> ModelConfig:
    """The configuration in a GGUF file's metadata. Raises CorruptArtifact or Unsupported; allocates nothing large."""
    architecture = file.string("general.architecture")

    def dimension(key: str, default: int | None = None) -> int:
        value = file.integer(f"{architecture}.{key}", default)
        if not 1 <= value <= MAX_DIMENSION:
            raise CorruptArtifact(
                f"{file.name}: {architecture}.{key} is {value}; it must be between 1 and {MAX_DIMENSION}"
            )
        return value

    num_heads = dimension("attention.head_count")
    hidden_size = dimension("embedding_length")
    config = ModelConfig(
        architecture=architecture,
        num_layers=dimension("block_count"),
        hidden_size=hidden_size,
        intermediate_size=dimension("feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=dimension("attention.head_count_kv", num_heads),
        head_dim=dimension("attention.key_length", hidden_size // num_heads),
        vocab_size=_vocab_size(file),
        max_context_tokens=dimension("context_length"),
        rms_norm_eps=file.number(f"{architecture}.attention.layer_norm_rms_epsilon"),
        rope_theta=file.number(f"{architecture}.rope.freq_base", 10_000.0),
        rope_frequency_factors=_rope_frequency_factors(file),
    )
    check_config(config, file.name)
    _check_rope_factors(file, config)
    _check_supported(file, config)
    return config


def _vocab_size(file: GgufFile) -> int:
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2 or embedding.shape[0] < 1:
        raise CorruptArtifact(f"{file.name}: tensor 'token_embd.weight' is missing or no matrix")
    return embedding.shape[0]


def _rope_frequency_factors(file: GgufFile) -> tuple[float, ...]:
    info = file.tensors.get("rope_freqs.weight")
    if info is None:
        return ()
    return tuple(dequantize(file.blocks(info.name), info.block_format, info.shape).flatten().tolist())


def _check_rope_factors(file: GgufFile, config: ModelConfig) -> None:
    factors = config.rope_frequency_factors
    if factors and (len(factors) != config.head_dim // 2 or not all(factor > 0 for factor in factors)):
        raise CorruptArtifact(
            f"{file.name}: tensor 'rope_freqs.weight' must hold {config.head_dim // 2} positive factors"
        )


def _check_supported(file: GgufFile, config: ModelConfig) -> None:
    """Refuse what would load and then answer wrongly."""
    architecture = config.architecture
    rotated = file.integer(f"{architecture}.rope.dimension_count", config.head_dim)
    if rotated != config.head_dim:
        raise Unsupported(f"{file.name}: rotating {rotated} of {config.head_dim} dimensions is not supported")
    scaling = file.string(f"{architecture}.rope.scaling.type", "none")
    if scaling != "none":
        raise Unsupported(f"{file.name}: rope scaling {scaling!r} is not supported; only 'none' is")
    if file.integer(f"{architecture}.expert_count", 0):
        raise Unsupported(f"{file.name}: mixtures of experts are not supported")
