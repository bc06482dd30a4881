"""Our encoder beside that of `transformers`, on the same weights: every hidden state of every token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact
from predictor.encoder.batches import batches_of
from predictor.encoder.folder import open_folder
from predictor.encoder.model import Encoder, Weights, can_pack
from predictor.encoder.tokenizer import EncoderTokenizer
from predictor.llm.weights.safetensors_checkpoint import SafetensorsCheckpoint
from tests.predictor.small_encoders import TEXTS, change_json, hidden_states, write_encoder


def states(folder: Path, texts: Sequence[str], max_batch_tokens: int = 1000) -> list[NDArray[np.float32]]:
    """What our encoder computes of the texts, all in one call: [num_tokens, hidden_size] of each."""
    opened = open_folder(folder)
    encoder, _ = opened.load(torch.float32, lambda encoder, _: encoder)
    tokenizer = EncoderTokenizer(
        opened.encoder, max_tokens=512, truncates=False, has_token_types=opened.config.has_token_types
    )
    found: dict[int, NDArray[np.float32]] = {}
    for batch in batches_of(tokenizer.encode(texts, "text"), max_batch_tokens):
        hidden = encoder(batch).numpy()
        indices = iter(batch.indices)
        for run in batch.runs:
            for start in range(run.start, run.start + run.num_tokens, run.length):
                found[next(indices)] = hidden[start : start + run.length]
    return [found[index] for index in range(len(texts))]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("bert", {}),
        ("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 0.1, "type_vocab_size": 3}),
        ("bert", {"hidden_act": "relu", "num_attention_heads": 1}),
        ("roberta", {"type_vocab_size": 1, "max_position_embeddings": 128}),
    ],
)
def test_hidden_states_are_those_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    folder = write_encoder(tmp_path, kind, **changes)

    ours, theirs = states(folder, TEXTS), hidden_states(folder, TEXTS)

    for our, their in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(our, their, atol=1e-5)


def test_a_text_does_not_depend_on_what_is_computed_with_it(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path)
    together = states(folder, TEXTS)

    for max_batch_tokens in (1, 20):
        for alone, beside in zip(states(folder, TEXTS, max_batch_tokens), together, strict=True):
            np.testing.assert_allclose(alone, beside, atol=1e-5)


def test_weights_of_a_whole_model_are_found_behind_its_name(tmp_path: Path) -> None:
    with_head = open_folder(write_encoder(tmp_path, "roberta", num_labels=2))

    encoder, num_bytes = with_head.load(torch.float32, lambda encoder, _: encoder)

    assert isinstance(encoder, Encoder)
    assert encoder.prefix == "roberta."
    assert num_bytes > 4 * 32 * 256


def test_packed_weights_change_nothing(tmp_path: Path) -> None:
    opened = open_folder(write_encoder(tmp_path))
    texts = EncoderTokenizer(opened.encoder, max_tokens=40, truncates=False).encode(TEXTS, "text")
    (batch,) = batches_of(texts, 1000)
    with SafetensorsCheckpoint(tmp_path, has_tied_embeddings=True) as checkpoint:
        packed, plain = (
            Encoder(opened.config, Weights(checkpoint, torch.float32, packs=packs)) for packs in (True, False)
        )

        assert can_pack(torch.float32)
        torch.testing.assert_close(packed(batch), plain(batch), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 4}, r"tensor 'encoder.layer.3.attention.self.query.weight' is missing"),
        ({"vocab_size": 1 << 24}, r"has shape \(\d+, 32\); its configuration needs \(16777216, 32\)"),
        ({"intermediate_size": 1 << 20}, r"has shape \(48, 32\); its configuration needs \(1048576, 32\)"),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused_before_they_are_allocated(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_encoder(tmp_path)
    change_json(folder / "config.json", **changes)

    with pytest.raises(CorruptArtifact, match=message):
        open_folder(folder).load(torch.float32, lambda encoder, _: encoder)
