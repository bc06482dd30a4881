"""The containers of deploy/compose.yaml answer as the services do: asked while they run, from outside, by the gateway.

deploy/ci/compose_smoke.sh brings them up, says where the gateway is, and runs this twice: before and after it has
killed the predictor's container.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

HTTP = os.environ.get("MESHSERVE_STACK_HTTP", "")
GRPC = os.environ.get("MESHSERVE_STACK_GRPC", "")

pytestmark = pytest.mark.skipif(not HTTP or not GRPC, reason="no containers run; deploy/ci/compose_smoke.sh runs this")

SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]
TIMEOUT_S = 100.0


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{HTTP}", timeout=TIMEOUT_S, trust_env=False) as client:
        yield client


@pytest.mark.parametrize("model", ["smollm2", "iris"])
def test_model_is_ready(client: httpx.Client, model: str) -> None:
    answer = client.get(f"/v2/models/{model}/ready")

    assert (answer.status_code, answer.json()["ready"]) == (200, True)


def test_iris_is_classified_over_rest(client: httpx.Client) -> None:
    tensor = {"name": "input", "datatype": "FP64", "shape": [2, 4], "data": [SETOSA, VIRGINICA]}

    answer = client.post("/v2/models/iris/infer", json={"inputs": [tensor]}).raise_for_status().json()

    outputs = {output["name"]: output for output in answer["outputs"]}
    assert outputs["label"]["data"] == [0, 2]
    assert outputs["probabilities"]["shape"] == [2, 3]


def test_iris_is_classified_over_grpc() -> None:
    request = oip.ModelInferRequest(model_name="iris")
    request.inputs.add(name="input", datatype="FP64", shape=[2, 4])
    request.raw_input_contents.append(np.array([SETOSA, VIRGINICA], dtype="<f8").tobytes())

    with grpc.insecure_channel(GRPC, (("grpc.enable_http_proxy", 0),)) as channel:
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=TIMEOUT_S)

    raw = dict(zip((output.name for output in answer.outputs), answer.raw_output_contents, strict=True))
    assert np.frombuffer(raw["label"], dtype="<i8").tolist() == [0, 2]


def test_iris_is_explained(client: httpx.Client) -> None:
    answer = client.post("/v1/models/iris:explain", json={"instances": [SETOSA]}).raise_for_status().json()

    (explanation,) = answer["explanations"]
    values = [one["value"] for one in explanation["attributions"]]
    assert explanation["target"] == "setosa"
    # Efficiency: what the features add is the whole difference to the baseline.
    assert sum(values) == pytest.approx(explanation["score"] - explanation["base_score"])


@pytest.mark.timeout(3 * TIMEOUT_S)
def test_chat_is_answered_and_the_stream_says_the_same(client: httpx.Client) -> None:
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": "Name the capital of France."}],
        "temperature": 0,
        "max_tokens": 12,
    }

    first, second = (client.post("/v1/chat/completions", json=body).raise_for_status().json() for _ in range(2))
    pieces = list(_streamed(client, {**body, "stream": True}))

    text = first["choices"][0]["message"]["content"]
    assert "Paris" in text
    assert second["choices"][0]["message"]["content"] == text
    assert "".join(pieces) == text
    assert len(pieces) > 1


def test_unknown_model_is_named_in_the_error(client: httpx.Client) -> None:
    answer = client.post(
        "/v1/chat/completions", json={"model": "nobody", "messages": [{"role": "user", "content": ""}]}
    )

    assert answer.status_code == 404
    assert "nobody" in answer.json()["error"]["message"]


def _streamed(client: httpx.Client, body: dict[str, Any]) -> Iterator[str]:
    """The pieces of text of a streamed chat, without empty ones."""
    with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                if choice["delta"].get("content"):
                    yield choice["delta"]["content"]
