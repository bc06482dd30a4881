"""config.json of encoders: what it gives, and what is refused before anything is allocated."""

from __future__ import annotations

from typing import Any

import pytest

from mesh.errors import CorruptArtifact, MeshError, Unsupported
from predictor.encoder.config import parse_config
from predictor.llm.weights.json_object import JsonObject

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "vocab_size": 30522,
    "max_position_embeddings": 512,
}


def parse(**changes: Any) -> Any:
    return parse_config(JsonObject(CONFIG | changes, "config.json"))


def test_bert_counts_positions_from_zero() -> None:
    config = parse()

    assert (config.head_dim, config.first_position, config.max_tokens) == (32, 0, 512)
    assert (config.num_token_types, config.activation, config.num_labels) == (2, "gelu", 2)
    assert config.has_token_types


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
def test_roberta_counts_positions_from_behind_its_padding(kind: str) -> None:
    config = parse(model_type=kind, max_position_embeddings=514, pad_token_id=1, type_vocab_size=1)

    assert (config.first_position, config.max_tokens) == (2, 512)
    assert not config.has_token_types


def test_labels_are_counted_by_their_names() -> None:
    assert parse(id2label={"0": "LABEL_0"}).num_labels == 1
    assert parse(num_labels=5).num_labels == 5


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"model_type": "llama"}, Unsupported, "model type 'llama' is no encoder here; known are bert, roberta"),
        ({"model_type": None}, CorruptArtifact, "'model_type' is missing"),
        ({"hidden_act": "swish"}, Unsupported, "activation 'swish' is not supported"),
        ({"position_embedding_type": "relative_key"}, Unsupported, "positions of kind 'relative_key'"),
        ({"is_decoder": True}, Unsupported, "is_decoder is true"),
        ({"hidden_size": 10**12}, CorruptArtifact, "'hidden_size' is 1000000000000; it must be 1 to"),
        ({"hidden_size": 0}, CorruptArtifact, "'hidden_size' is 0"),
        ({"hidden_size": 385}, CorruptArtifact, "hidden_size 385 is no multiple of 12 heads"),
        ({"num_hidden_layers": 10**6}, CorruptArtifact, "'num_hidden_layers' is 1000000; it must be 1 to 1024"),
        ({"vocab_size": "many"}, CorruptArtifact, "'vocab_size' is of type str"),
        ({"num_labels": 10**9}, CorruptArtifact, "'num_labels' is 1000000000"),
        ({"id2label": {}}, CorruptArtifact, "'id2label' has 0 labels"),
        ({"layer_norm_eps": "x"}, CorruptArtifact, "'layer_norm_eps' is of type str"),
        ({"model_type": "roberta", "pad_token_id": 511}, CorruptArtifact, "no position is left of 512"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(
    changes: dict[str, Any], kind: type[MeshError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        parse(**changes)
