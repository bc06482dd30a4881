"""The head of a cross-encoder: scores of an input from the hidden state of its first token.

BERT's goes through the pooler and one linear layer, RoBERTa's through two of its own: `BertForSequenceClassification`
and `RobertaForSequenceClassification` of `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from predictor.encoder.batches import Batch
from predictor.encoder.config import BERT
from predictor.encoder.model import Encoder, Linear, Weights
from predictor.encoder.pooling import pooled

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: torch.softmax(logits, dim=-1),
}

# The names of its two layers.
_ROBERTA_HEAD = ("classifier.dense", "classifier.out_proj")


class Classifier:
    """An encoder and its head."""

    def __init__(self, encoder: Encoder, weights: Weights) -> None:
        """Raises CorruptArtifact for a folder without a head, or one of other sizes than its configuration's."""
        config = encoder.config
        H = config.hidden_size
        is_bert = config.architecture == BERT
        dense, out = (f"{encoder.prefix}pooler.dense", "classifier") if is_bert else _ROBERTA_HEAD
        self._encoder = encoder
        self._dense = Linear(weights, (dense,), H, H)
        self._out = Linear(weights, (out,), H, config.num_labels)

    def __call__(self, batch: Batch) -> Tensor:
        """Logits, float32 [texts of the batch, num_labels]."""
        first = pooled(self._encoder(batch), batch, "cls").to(self._dense.dtype)  # [n, H]
        return self._out(torch.tanh(self._dense(first))).float()
