"""A model's weights, laid out for the kernels.

4-bit and 8-bit GGUF blocks keep their values to the bit; every other format becomes 8-bit with a scale per group of 32.
A matrix is packed as soon as it is read, so that a model never exists twice in memory.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.errors import Unsupported
from predictor.llm.models.config import ModelConfig
from predictor.llm.native.library import Config, KvFormat, Layer, Matrix, NativeLibrary, Source, pointer
from predictor.llm.weights.checkpoint import Checkpoint
from predictor.llm.weights.gguf import BlockFormat
from predictor.llm.weights.stored_tensor import StoredTensor

GROUP = 32

# Architectures that the kernels compute, and whether q, k and v have biases.
ARCHITECTURES = {"llama": False, "mistral": False, "qwen2": True}

_SOURCES = {BlockFormat.Q4_0: Source.Q4_0, BlockFormat.Q4_1: Source.Q4_1, BlockFormat.Q8_0: Source.Q8_0}
# A vector load that crosses cache lines costs twice.
_ALIGNMENT = 64
# Eight times a larger scale is no float16.
_MAX_Q4_0_SCALE = 8188.0


@dataclass(slots=True)
class PackedModel:
    """`config` points into `arrays`. weight_bytes: of packed matrices, by the name of their format."""

    config: Config
    arrays: list[Any] = field(default_factory=list)  # Any: kept alive, never looked at
    weight_bytes: Counter[str] = field(default_factory=Counter)

    @property
    def dtype(self) -> str:
        """The format of most of the weights, and that of the activations."""
        return f"{self.weight_bytes.most_common(1)[0][0]}+int8"


def pack_model(
    library: NativeLibrary, config: ModelConfig, checkpoint: Checkpoint, num_threads: int, kv_format: KvFormat
) -> PackedModel:
    """Reads all weights. Raises Unsupported for an architecture that the kernels do not compute, CorruptArtifact."""
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(sorted(ARCHITECTURES))
        raise Unsupported(f"the native backend does not compute {config.architecture!r}, only {known}")
    return _Packer(library, config, checkpoint).pack(num_threads, kv_format)


def pack_matrix(library: NativeLibrary, tensor: StoredTensor) -> tuple[Matrix, npt.NDArray[np.uint8], str]:
    """The packed form of a stored [rows, columns], the array that holds it, and the name of its format."""
    rows, columns = tensor.shape
    source = _SOURCES.get(tensor.block_format, Source.F32)
    if source is Source.Q4_0 and not _fits_float16(tensor):
        source = Source.F32
    stored: npt.NDArray[Any] = tensor.blocks
    if source is Source.F32:
        stored = tensor.to_float32()
    packed = aligned_zeros(library.packed_bytes(source.packed_format, rows, columns))
    library.pack(np.ascontiguousarray(stored), source, rows, columns, packed)
    name = "int8" if source is Source.F32 else tensor.block_format.name.lower()
    return Matrix(pointer(packed), source.packed_format, rows, columns), packed, name


def padded(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A vector with zeros up to a whole number of groups."""
    result = np.zeros(-(-len(values) // GROUP) * GROUP, np.float32)
    result[: len(values)] = values
    return result


class _Packer:
    def __init__(self, library: NativeLibrary, config: ModelConfig, checkpoint: Checkpoint) -> None:
        self._library = library
        self._config = config
        self._checkpoint = checkpoint
        self._packed = PackedModel(Config())

    def pack(self, num_threads: int, kv_format: KvFormat) -> PackedModel:
        config, packed = self._config, self._packed
        vocab, hidden = config.vocab_size, config.hidden_size
        embedding = self._matrix("model.embed_tokens.weight", vocab, hidden)
        is_tied = not self._checkpoint.has("lm_head.weight")
        lm_head = embedding if is_tied else self._matrix("lm_head.weight", vocab, hidden)
        layers = (Layer * config.num_layers)(*(self._layer(f"model.layers.{i}") for i in range(config.num_layers)))
        packed.arrays.append(layers)
        packed.config = Config(
            num_layers=config.num_layers,
            hidden_size=hidden,
            intermediate_size=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab_size=vocab,
            num_threads=num_threads,
            kv_format=kv_format,
            rms_norm_eps=config.rms_norm_eps,
            rotary_frequencies=self._keep(rotary_frequencies(config)),
            norm=self._vector("model.norm.weight", hidden),
            layers=layers,
            embedding=embedding,
            lm_head=lm_head,
        )
        return packed

    def _layer(self, prefix: str) -> Layer:
        config = self._config
        hidden, inner = config.hidden_size, config.intermediate_size
        q_size, kv_size = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        sizes = {"q": q_size, "k": kv_size, "v": kv_size}
        layer = Layer(
            input_norm=self._vector(f"{prefix}.input_layernorm.weight", hidden),
            post_norm=self._vector(f"{prefix}.post_attention_layernorm.weight", hidden),
            o=self._matrix(f"{prefix}.self_attn.o_proj.weight", hidden, q_size),
            gate=self._matrix(f"{prefix}.mlp.gate_proj.weight", inner, hidden),
            up=self._matrix(f"{prefix}.mlp.up_proj.weight", inner, hidden),
            down=self._matrix(f"{prefix}.mlp.down_proj.weight", hidden, inner),
        )
        for name, size in sizes.items():
            setattr(layer, name, self._matrix(f"{prefix}.self_attn.{name}_proj.weight", size, hidden))
            if ARCHITECTURES[config.architecture]:
                setattr(layer, f"{name}_bias", self._vector(f"{prefix}.self_attn.{name}_proj.bias", size))
        return layer

    def _matrix(self, name: str, rows: int, columns: int) -> Matrix:
        matrix, array, format_name = pack_matrix(self._library, self._checkpoint.take_stored(name, (rows, columns)))
        self._packed.arrays.append(array)
        self._packed.weight_bytes[format_name] += array.nbytes
        return matrix

    def _vector(self, name: str, size: int) -> int:
        return self._keep(padded(self._checkpoint.take(name, (size,))))

    def _keep(self, array: npt.NDArray[np.float32]) -> int:
        self._packed.arrays.append(array)
        return pointer(array)


def rotary_frequencies(config: ModelConfig) -> npt.NDArray[np.float32]:
    """As in `layers.rotary`: float32, one for each pair of dimensions."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    if config.rope_frequency_factors:
        frequencies /= np.array(config.rope_frequency_factors, np.float32)
    return frequencies


def _fits_float16(tensor: StoredTensor) -> bool:
    scales = tensor.blocks.reshape(-1, tensor.block_format.block_bytes)[:, :2].copy().view(np.float16)
    return bool((np.abs(scales) <= _MAX_Q4_0_SCALE).all())


def aligned_zeros(size_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeroed memory that starts on a cache line. A page of it takes memory only when it is first written."""
    array = np.zeros(size_bytes + _ALIGNMENT, np.uint8)
    start = -pointer(array) % _ALIGNMENT
    return array[start : start + size_bytes]
