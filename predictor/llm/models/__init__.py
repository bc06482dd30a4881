"""Model architectures by the name that model files give them. A new one is a module here and a row in the table."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from mesh import plugins
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


def find_architecture(name: str) -> ModelFactory:
    """The class that implements architecture `name`; NotFound, with the known names, when there is none."""
    factory: ModelFactory = plugins.load(ARCHITECTURES, name, what="model architecture")
    return factory
