"""BERT and RoBERTa in PyTorch, over packed batches: hidden states of the last layer, one row a token.

Letters: T tokens of a batch, n texts of a run, L tokens of each of them, H hidden size, h heads, d head dimension.
Knows neither texts nor what is made of the hidden states. Architecture: Devlin et al., 2019, and Liu et al., 2019;
names of the weights are those of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.encoder.batches import Batch
from predictor.encoder.config import EncoderConfig
from predictor.llm.weights.checkpoint import Checkpoint

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
# What a model's class puts in front of its encoder's names; a plain encoder has nothing there.
_PREFIXES = ("", "bert.", "roberta.")


class Weights:
    """Tensors of a checkpoint in the dtype of computation. Raises CorruptArtifact for one that is missing or odd."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, *, packs: bool) -> None:
        """packs: linear layers keep their weights as oneDNN packs them (`can_pack`)."""
        self._checkpoint = checkpoint
        self._dtype = dtype
        self.packs = packs
        self.num_bytes = 0

    def has(self, name: str) -> bool:
        return self._checkpoint.has(name)

    def take(self, name: str, *shape: int) -> Tensor:
        """The tensor `name`; its shape is checked before it is read."""
        tensor = torch.from_numpy(self._checkpoint.take(name, shape)).to(self._dtype)
        self.num_bytes += tensor.nbytes
        return tensor


class Linear:
    """`x @ weight.T + bias`; several names are one layer, their outputs side by side.

    A packed weight takes half the time for a text of ten tokens that a plain one takes, and no more for many tokens.
    """

    def __init__(self, weights: Weights, names: tuple[str, ...], num_in: int, num_out: int) -> None:
        """num_out: of each of them."""
        parts = [weights.take(f"{name}.weight", num_out, num_in) for name in names]
        biases = [weights.take(f"{name}.bias", num_out) for name in names]
        weight = parts[0] if len(parts) == 1 else torch.cat(parts)
        self.dtype = weight.dtype
        self._bias = biases[0] if len(biases) == 1 else torch.cat(biases)
        self._is_packed = weights.packs
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self._is_packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if not self._is_packed:
            return F.linear(x, self._weight, self._bias)
        # The operation that torch.compile puts in the place of F.linear, without its compiler.
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return packed


class LayerNorm:
    """Over the last dimension."""

    def __init__(self, weights: Weights, name: str, config: EncoderConfig) -> None:
        self._weight = weights.take(f"{name}.weight", config.hidden_size)
        self._bias = weights.take(f"{name}.bias", config.hidden_size)
        self._eps = config.layer_norm_eps

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self._weight.shape, self._weight, self._bias, self._eps)


class _Layer:
    """Attention and feed-forward, each added to its input and normalized after it."""

    def __init__(self, weights: Weights, name: str, config: EncoderConfig) -> None:
        H, attention = config.hidden_size, f"{name}.attention.self"
        self._num_heads, self._head_dim = config.num_heads, config.head_dim
        self._qkv = Linear(weights, tuple(f"{attention}.{part}" for part in ("query", "key", "value")), H, H)
        self._attention_out = Linear(weights, (f"{name}.attention.output.dense",), H, H)
        self._attention_norm = LayerNorm(weights, f"{name}.attention.output.LayerNorm", config)
        self._up = Linear(weights, (f"{name}.intermediate.dense",), H, config.intermediate_size)
        self._activation = _ACTIVATIONS[config.activation]
        self._down = Linear(weights, (f"{name}.output.dense",), config.intermediate_size, H)
        self._norm = LayerNorm(weights, f"{name}.output.LayerNorm", config)

    def __call__(self, x: Tensor, batch: Batch) -> Tensor:
        x = self._attention_norm(self._attention_out(self._attend(self._qkv(x), batch)) + x)  # [T, H]
        return self._norm(self._down(self._activation(self._up(x))) + x)  # [T, H]

    def _attend(self, qkv: Tensor, batch: Batch) -> Tensor:
        """qkv: [T, 3 * H] → [T, H]. Each text sees itself alone, so no mask is needed."""
        outputs = []
        for run in batch.runs:
            part = qkv[run.start : run.start + run.num_tokens]
            part = part.view(run.num_texts, run.length, 3, self._num_heads, self._head_dim)
            q, k, v = part.permute(2, 0, 3, 1, 4)  # each [n, h, L, d]
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # [n, L, h, d]
            outputs.append(attended.reshape(run.num_tokens, self._num_heads * self._head_dim))
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


class Encoder:
    """The embeddings and all layers. One thread at a time is enough: it keeps no state between calls."""

    def __init__(self, config: EncoderConfig, weights: Weights) -> None:
        """Raises CorruptArtifact when the weights do not fit the configuration."""
        self.config = config
        first = "embeddings.word_embeddings.weight"
        self.prefix = next((prefix for prefix in _PREFIXES if weights.has(prefix + first)), "")
        embeddings = f"{self.prefix}embeddings"
        H = config.hidden_size
        self._words = weights.take(f"{embeddings}.word_embeddings.weight", config.vocab_size, H)
        self._positions = weights.take(f"{embeddings}.position_embeddings.weight", config.num_positions, H)
        self._types = weights.take(f"{embeddings}.token_type_embeddings.weight", config.num_token_types, H)
        self._norm = LayerNorm(weights, f"{embeddings}.LayerNorm", config)
        self._layers = [
            _Layer(weights, f"{self.prefix}encoder.layer.{number}", config) for number in range(config.num_layers)
        ]

    def __call__(self, batch: Batch) -> Tensor:
        """Hidden states of all tokens of the batch, [T, H]; every text is as long as there are positions, at most."""
        positions = torch.from_numpy(batch.positions) + self.config.first_position
        x = self._words[torch.from_numpy(batch.ids)] + self._positions[positions]
        x = self._norm(x + self._types[torch.from_numpy(batch.type_ids)])  # [T, H]
        for layer in self._layers:
            x = layer(x, batch)
        return x


def can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of PyTorch and this CPU multiply by packed weights of that dtype."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
