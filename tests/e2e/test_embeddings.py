"""MiniLM, from its wheel, through a whole mesh: embeddings and reranking by stock clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import yaml

from tests.conftest import MINILM_SHA256, MINILM_URI
from tests.e2e.running import ROOT, Mesh, start, stop

pytestmark = pytest.mark.slow

EXAMPLE = ROOT / "deploy" / "local" / "embeddings.yaml"


@pytest.fixture(scope="module")
def mesh(minilm_folder: Path, reranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """The example's mesh and a reranker beside it. `minilm_folder`: the model is in the cache by then."""
    folder = tmp_path_factory.mktemp("embeddings")
    described = yaml.safe_load(EXAMPLE.read_text())
    reranker = {"model_format": "reranker", "storage_uri": reranker_folder.as_uri()}
    described["deployments"].append({"name": "random", "predictor": reranker})
    (folder / "mesh.yaml").write_text(yaml.safe_dump(described))
    running = start(folder, "--deployments", str(folder / "mesh.yaml"), models=("minilm", "random"))
    yield running
    stop(running)


@pytest.fixture
def client(mesh: Mesh) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{mesh.url}/v1", api_key="none", timeout=60, max_retries=0)


def test_the_example_is_the_model_of_the_tests() -> None:
    (deployment,) = yaml.safe_load(EXAMPLE.read_text())["deployments"]

    assert deployment["predictor"]["storage_uri"] == MINILM_URI
    assert deployment["predictor"]["sha256"] == MINILM_SHA256


def test_a_question_is_nearest_to_its_answer(client: openai.OpenAI) -> None:
    texts = ["What is the capital of France?", "Paris is the seat of the French government.", "Bananas are yellow."]

    binary = client.embeddings.create(model="minilm", input=texts)
    numbers = client.embeddings.create(model="minilm", input=texts, encoding_format="float")

    vectors = np.array([one.embedding for one in binary.data])
    np.testing.assert_allclose(vectors, [one.embedding for one in numbers.data], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert binary.usage.prompt_tokens == 9 + 11 + 6


def test_a_text_beyond_the_model_is_refused_and_the_model_goes_on(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has 1002 tokens; the model takes 256") as caught:
        client.embeddings.create(model="minilm", input=["short", "word " * 1000])

    assert caught.value.code == "context_length_exceeded"
    assert client.embeddings.create(model="minilm", input="short").data


def test_documents_are_ranked(mesh: Mesh) -> None:
    documents = ["a lazy dog", "the quick brown fox", "paris"]

    answer = httpx.post(f"{mesh.url}/v1/rerank", json={"model": "random", "query": "fox", "documents": documents})

    results = answer.json()["results"]
    scores = [one["relevance_score"] for one in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert {one["document"]["text"] for one in results} == set(documents)


def test_models_of_texts_are_listed_and_refuse_what_is_not_theirs(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"minilm", "random"}

    with pytest.raises(openai.BadRequestError, match="model 'random' makes no embeddings"):
        client.embeddings.create(model="random", input="fox")
    with pytest.raises(openai.BadRequestError, match="model 'minilm' does not generate text"):
        client.completions.create(model="minilm", prompt="fox")
