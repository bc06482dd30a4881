"""Our cross-encoders beside those of `transformers`, on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mesh.errors import CorruptArtifact
from predictor.encoder.batches import batches_of
from predictor.encoder.classifier import ACTIVATIONS, Classifier
from predictor.encoder.folder import open_folder
from predictor.encoder.tokenizer import EncoderTokenizer
from tests.predictor.small_encoders import TEXTS, logits, write_encoder

PAIRS = [(first, second) for first in TEXTS[:3] for second in TEXTS]


@pytest.mark.parametrize(
    ("kind", "num_labels", "changes"),
    [("bert", 1, {}), ("bert", 3, {}), ("roberta", 1, {"max_position_embeddings": 200, "type_vocab_size": 1})],
)
def test_logits_are_those_of_transformers(tmp_path: Path, kind: str, num_labels: int, changes: dict[str, Any]) -> None:
    opened = open_folder(write_encoder(tmp_path, kind, num_labels=num_labels, **changes))
    classifier, _ = opened.load(torch.float32, Classifier)
    tokenizer = EncoderTokenizer(
        opened.encoder, max_tokens=500, truncates=False, has_token_types=opened.config.has_token_types
    )

    (batch,) = batches_of(tokenizer.encode(PAIRS, "document"), max_tokens=10_000)
    rows = np.empty((len(PAIRS), num_labels))
    rows[list(batch.indices)] = classifier(batch).numpy()

    np.testing.assert_allclose(rows, logits(tmp_path, PAIRS), atol=1e-5)
    assert np.ptp(rows, axis=0).min() > 0.01


def test_folder_without_a_head_is_corrupt(tmp_path: Path) -> None:
    opened = open_folder(write_encoder(tmp_path))

    with pytest.raises(CorruptArtifact, match="tensor 'classifier.weight' is missing"):
        opened.load(torch.float32, Classifier)


def test_activations() -> None:
    rows = torch.tensor([[0.0, 1.0]])

    assert ACTIVATIONS["identity"](rows) is rows
    torch.testing.assert_close(ACTIVATIONS["sigmoid"](rows), torch.tensor([[0.5, 1 / (1 + np.exp(-1))]]).float())
    assert float(ACTIVATIONS["softmax"](rows).sum()) == pytest.approx(1)
