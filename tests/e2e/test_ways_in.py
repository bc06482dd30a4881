"""Every way into the mesh, with stock clients, against the real models."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from tests.e2e.running import SERVICES, Mesh

SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]
QUESTION: list[Any] = [{"role": "user", "content": "Name the capital of France."}]


@pytest.fixture
def client(mesh: Mesh) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{mesh.url}/v1", api_key="none", timeout=60, max_retries=0)


def test_five_services_run_in_processes_of_their_own(mesh: Mesh) -> None:
    pids = {service["name"]: service["pid"] for service in mesh.info()["services"]}

    assert set(pids) == set(SERVICES)
    assert len(set(pids.values())) == 5


def test_chat_is_answered_and_greedy_answers_repeat(client: openai.OpenAI) -> None:
    answers = [
        client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=24)
        for _ in range(2)
    ]

    text = answers[0].choices[0].message.content
    assert text is not None
    assert "Paris" in text
    assert answers[1].choices[0].message.content == text
    assert answers[0].usage is not None
    assert answers[0].usage.completion_tokens <= 24


def test_streamed_chat_gives_the_same_text_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="smollm2", messages=QUESTION, temperature=0, max_tokens=24)
    stream = client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, max_tokens=24, stream=True,
        stream_options={"include_usage": True},
    )  # fmt: skip
    chunks = list(stream)

    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-1].usage == whole.usage


def test_completions_streamed_and_not(client: openai.OpenAI) -> None:
    prompt = "The first ten prime numbers are"
    whole = client.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=12)
    stream = client.completions.create(model="smollm2", prompt=prompt, temperature=0, max_tokens=12, stream=True)

    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices) == whole.choices[0].text
    assert whole.choices[0].finish_reason == "length"


def test_seed_decides_a_sampled_answer(client: openai.OpenAI) -> None:
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(
            model="smollm2", messages=QUESTION, temperature=1.2, max_tokens=16, seed=seed
        )
        return answer.choices[0].message.content

    assert sample(7) == sample(7)
    assert len({sample(seed) for seed in range(4)}) > 1


def test_models_are_listed(mesh: Mesh, client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"smollm2", "iris"}
    assert httpx.get(f"{mesh.url}/v1/models/iris").json()["ready"] is True
    assert set(httpx.get(f"{mesh.url}/v1/models", params={"format": "v1"}).json()["models"]) == {"smollm2", "iris"}


def test_iris_is_inferred_over_v2_rest(mesh: Mesh) -> None:
    body = {
        "id": "r-1",
        "inputs": [{"name": "input", "datatype": "FP64", "shape": [2, 4], "data": [SETOSA, VIRGINICA]}],
    }

    answer = httpx.post(f"{mesh.url}/v2/models/iris/infer", json=body).raise_for_status().json()

    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r-1", "iris", "1")
    assert outputs["label"]["data"] == [0, 2]
    assert outputs["probabilities"]["shape"] == [2, 3]


def test_iris_is_predicted_and_explained_over_v1(mesh: Mesh) -> None:
    instances = {"instances": [SETOSA, VIRGINICA]}

    predicted = httpx.post(f"{mesh.url}/v1/models/iris:predict", json=instances).raise_for_status().json()
    explained = httpx.post(f"{mesh.url}/v1/models/iris:explain", json=instances).raise_for_status().json()

    assert [row["label"] for row in predicted["predictions"]] == [0, 2]
    for row, explanation in zip(predicted["predictions"], explained["explanations"], strict=True):
        values = [each["value"] for each in explanation["attributions"]]
        assert len(values) == 4
        assert explanation["score"] == pytest.approx(max(row["probabilities"]))
        # Efficiency: what the features add is the whole difference to the baseline.
        assert sum(values) == pytest.approx(explanation["score"] - explanation["base_score"])


def test_chat_prompt_is_explained_word_by_word(mesh: Mesh) -> None:
    instance = {"messages": QUESTION, "target": "Paris", "max_tokens": 8}

    answer = httpx.post(f"{mesh.url}/v1/models/smollm2:explain", json={"instances": [instance]}, timeout=60)

    explanation = answer.raise_for_status().json()["explanations"][0]
    values = {each["name"].strip(" ."): each["value"] for each in explanation["attributions"]}
    assert set(values) == {"Name", "the", "capital", "of", "France"}
    assert max(values, key=lambda word: values[word]) in {"France", "capital"}


def test_generate_and_generate_stream_give_the_same_text(mesh: Mesh) -> None:
    body = {"text_input": "Two plus two is", "parameters": {"temperature": 0, "max_tokens": 12}}

    whole = httpx.post(f"{mesh.url}/v2/models/smollm2/generate", json=body, timeout=60).raise_for_status().json()
    with httpx.stream("POST", f"{mesh.url}/v2/models/smollm2/generate_stream", json=body, timeout=60) as stream:
        content_type = stream.headers["content-type"]
        events = [json.loads(line[len("data:") :]) for line in stream.iter_lines() if line.startswith("data:")]

    assert content_type.startswith("text/event-stream")
    assert len(events) > 1
    assert "".join(event["text_output"] for event in events) == whole["text_output"]


def test_every_service_shows_metrics(mesh: Mesh) -> None:
    for service in mesh.info()["services"]:
        page = httpx.get(f"http://{service['metrics_address']}/metrics").raise_for_status().text

        assert "meshserve_rpc_handled_total" in page
    predictor = mesh.service("predictor")["metrics_address"]
    assert "vllm:num_requests_running" in httpx.get(f"http://{predictor}/metrics").text
