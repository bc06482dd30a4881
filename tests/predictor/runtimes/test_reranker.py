"""Cross-encoders: scores as `transformers` and sentence-transformers' CrossEncoder would give them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mesh.errors import CorruptArtifact, InvalidInput, PromptTooLong, Unsupported
from predictor.runtimes.base import Arrays, ModelArtifact
from predictor.runtimes.reranker import RerankerRuntime
from tests.predictor.small_encoders import TEXTS, change_json, logits, write_encoder, write_json

QUERY = "what is the capital of france"
PAIRS = [(QUERY, text) for text in TEXTS]


async def load(folder: Path, **options: str) -> RerankerRuntime:
    runtime = RerankerRuntime()
    artifact = ModelArtifact("model", "1", folder, "0" * 64, options)
    await runtime.load(artifact, lambda stage, done, total: None, lambda is_healthy, why: None)
    return runtime


async def infer(runtime: RerankerRuntime, pairs: Sequence[tuple[str, str]] = PAIRS) -> Arrays:
    queries, documents = (np.array([pair[i].encode() for pair in pairs], dtype=object) for i in (0, 1))
    return await runtime.infer({"query": queries, "document": documents})


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = 1 / (1 + np.exp(-x))
    return result


@pytest.mark.parametrize(
    ("kind", "changes"), [("bert", {}), ("roberta", {"max_position_embeddings": 200, "type_vocab_size": 1})]
)
async def test_one_label_is_a_score_between_0_and_1(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    folder = write_encoder(tmp_path, kind, num_labels=1, **changes)

    runtime = await load(folder, max_batch_tokens="50")
    answer = await infer(runtime)

    np.testing.assert_allclose(answer["score"], sigmoid(logits(folder, PAIRS))[:, 0], atol=1e-5)
    assert answer["num_tokens"].dtype == np.int64
    assert runtime.metadata.outputs[0].shape == (-1,)
    await runtime.unload()


async def test_several_labels_are_rows_of_logits(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, num_labels=3)

    runtime = await load(folder)

    np.testing.assert_allclose((await infer(runtime))["score"], logits(folder, PAIRS), atol=1e-5)
    assert runtime.metadata.outputs[0].shape == (-1, 3)
    assert runtime.metadata.parameters == {"activation": "identity", "max_tokens": "40"}


@pytest.mark.parametrize(
    "config",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
    ],
)
async def test_activation_is_the_one_that_the_model_names(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write_encoder(tmp_path, num_labels=1)
    change_json(folder / "config.json", **config)

    named, asked = await infer(await load(folder)), await infer(await load(folder, activation="sigmoid"))

    np.testing.assert_allclose(named["score"], logits(folder, PAIRS)[:, 0], atol=1e-5)
    np.testing.assert_allclose(asked["score"], sigmoid(named["score"]), atol=1e-6)


async def test_document_is_cut_beside_its_query_or_refused_where_that_was_asked_for(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, num_labels=1)
    write_json(folder / "tokenizer_config.json", {"model_max_length": 14})
    long = (QUERY, "the quick brown fox jumps over a lazy dog and cat")

    cut = await infer(await load(folder), [long])

    assert cut["num_tokens"].tolist() == [14]
    np.testing.assert_allclose(cut["score"], sigmoid(logits(folder, [long], max_tokens=14))[:, 0], atol=1e-5)
    with pytest.raises(PromptTooLong, match=r"document\[1\] has 20 tokens; the model takes 14"):
        await infer(await load(folder, truncate="false"), [("a", "dog"), long])


@pytest.mark.parametrize("name", ["query", "document"])
async def test_text_that_is_no_utf8_is_refused_by_name(tmp_path: Path, name: str) -> None:
    runtime = await load(write_encoder(tmp_path, num_labels=1))
    inputs = {"query": np.array([b"a"], dtype=object), "document": np.array([b"b"], dtype=object)}

    with pytest.raises(InvalidInput, match=rf"{name}\[0\] is no UTF-8"):
        await runtime.infer(inputs | {name: np.array([b"\xff"], dtype=object)})


async def test_batch_of_nothing_is_answered_with_nothing(tmp_path: Path) -> None:
    answer = await infer(await load(write_encoder(tmp_path, num_labels=1)), [])

    assert (answer["score"].shape, answer["num_tokens"].shape) == ((0,), (0,))


async def test_encoder_without_a_head_is_no_reranker(tmp_path: Path) -> None:
    with pytest.raises(CorruptArtifact, match=r"tensor 'classifier.weight' is missing"):
        await load(write_encoder(tmp_path))


async def test_unknown_activations_are_refused(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path, num_labels=1)

    with pytest.raises(InvalidInput, match="option 'activation' is 'tanh'; it must be one of auto, identity, sigmoid"):
        await load(folder, activation="tanh")
    change_json(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.Tanh"})
    with pytest.raises(Unsupported, match=r"activation 'torch.nn.Tanh' is not supported"):
        await load(folder)
