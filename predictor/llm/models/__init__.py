"""Model architectures by the name that model files give them. A new one is a module here and a row in the table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mesh import plugins
from mesh.errors import NotFound

if TYPE_CHECKING:
    # Whoever asks only whether an architecture is known, as the native loader does, needs no torch.
    import torch
    from torch import Tensor

    from predictor.llm.layers.attention import AttentionMetadata, KVCache
    from predictor.llm.models.config import ModelConfig
    from predictor.llm.weights.checkpoint import Checkpoint

ARCHITECTURES = {
    "llama": "predictor.llm.models.llama:LlamaModel",
    "mistral": "predictor.llm.models.llama:LlamaModel",
    "qwen2": "predictor.llm.models.qwen2:Qwen2Model",
}


class LanguageModel(Protocol):
    """A decoder over a flat batch: the tokens of all sequences of a step side by side, no padding."""

    config: ModelConfig

    def forward(self, token_ids: Tensor, positions: Tensor, kv_cache: KVCache, metadata: AttentionMetadata) -> Tensor:
        """int64 [num_tokens], int64 [num_tokens] → normalised hidden states [num_tokens, hidden_size]."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [rows, hidden_size] → float32 [rows, vocab_size]."""
        ...


class ModelFactory(Protocol):
    def __call__(
        self, config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device
    ) -> LanguageModel: ...


def check_architecture(name: str) -> None:
    """Raise NotFound, with the known names, for an architecture that is not implemented."""
    if name not in ARCHITECTURES:
        raise NotFound(f"unknown model architecture '{name}'; known are: {', '.join(sorted(ARCHITECTURES))}")


def find_architecture(name: str) -> ModelFactory:
    """The class that implements architecture `name`; NotFound, with the known names, when there is none."""
    factory: ModelFactory = plugins.load(ARCHITECTURES, name, what="model architecture")
    return factory
