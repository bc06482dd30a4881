"""What is left of a request: one trace across all hops, and one line in the prediction log."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx

from tests.e2e.running import Mesh, eventually

IRIS = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
CHAT = {"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}


def send(mesh: Mesh, path: str, body: dict[str, Any]) -> tuple[str, str]:
    """POST with an id and a trace of our own; gives both."""
    request_id, trace_id = f"test-{uuid.uuid4().hex}", uuid.uuid4().hex
    headers = {"x-request-id": request_id, "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    answer = httpx.post(f"{mesh.url}{path}", json=body, headers=headers, timeout=60).raise_for_status()
    assert answer.headers["x-request-id"] == request_id
    return request_id, trace_id


def chain(mesh: Mesh, trace_id: str) -> list[list[str]]:
    """The services of each path from a root of the trace to a leaf, without immediate repeats."""
    spans = [json.loads(line) for line in (mesh.state_dir / "traces.jsonl").read_text().splitlines()]
    spans = [span for span in spans if span["trace_id"] == trace_id]
    known = {span["span_id"]: span for span in spans}
    parents = {span["parent_span_id"] for span in spans}
    paths = []
    for leaf in (span for span in spans if span["span_id"] not in parents):
        path, span = [], leaf
        while span is not None:
            path.append(span["service"].removeprefix("meshserve-"))
            span = known.get(span["parent_span_id"])
        path.reverse()
        paths.append([name for place, name in enumerate(path) if place == 0 or path[place - 1] != name])
    return paths


def test_predict_is_one_trace_from_gateway_to_predictor(mesh: Mesh) -> None:
    wanted = ["gateway", "transformer", "predictor"]
    for path, body in (("/v1/models/iris:predict", IRIS), ("/v1/chat/completions", CHAT)):
        _, trace_id = send(mesh, path, body)
        eventually(lambda trace_id=trace_id: wanted in chain(mesh, trace_id), 10, f"{wanted} in one trace of {path}")


def test_explain_is_one_trace_through_the_explainer(mesh: Mesh) -> None:
    wanted = ["gateway", "transformer", "explainer", "predictor"]
    chat = {"instances": [{"messages": CHAT["messages"], "target": "Hello"}]}
    for path, body in (("/v1/models/iris:explain", IRIS), ("/v1/models/smollm2:explain", chat)):
        _, trace_id = send(mesh, path, body)
        eventually(lambda trace_id=trace_id: wanted in chain(mesh, trace_id), 10, f"{wanted} in one trace of {path}")


def record(mesh: Mesh, request_id: str) -> dict[str, Any]:
    def find() -> list[dict[str, Any]]:
        lines = [line for file in mesh.state_dir.rglob("predictions*.jsonl") for line in file.read_text().splitlines()]
        return [found for found in map(json.loads, lines) if found["request_id"] == request_id]

    records: list[dict[str, Any]] = eventually(lambda: find(), 10, f"a record of {request_id}")
    assert len(records) == 1, "one record a request"
    return records[0]


def test_chat_leaves_one_record_with_everything(mesh: Mesh) -> None:
    request_id, trace_id = send(mesh, "/v1/chat/completions", {**CHAT, "seed": 11})

    found = record(mesh, request_id)

    assert found["trace_id"] == trace_id
    assert found["deployment"] == "smollm2"
    assert (found["model"]["name"], found["model"]["version"]) == ("smollm2", "1")
    assert found["model"]["digest"].startswith("b179c952")
    assert found["prompt"]["messages"] == CHAT["messages"]
    assert found["rendered_prompt"].endswith("<|im_start|>assistant\n")
    assert found["sampling"]["seed"] == 11
    assert found["output"]["text"]
    assert len(found["output"]["token_ids"]) == found["usage"]["output_tokens"]
    assert found["usage"]["prompt_tokens"] > 0
    assert found["timings"]["total_s"] >= found["timings"]["first_token_s"] > 0
    assert found["status"] == "OK"


def test_tensor_request_leaves_one_record(mesh: Mesh) -> None:
    request_id, _ = send(mesh, "/v1/models/iris:predict", IRIS)

    found = record(mesh, request_id)

    assert (found["deployment"], found["model"]["version"], found["status"]) == ("iris", "1", "OK")


def test_failed_request_leaves_one_record_too(mesh: Mesh) -> None:
    request_id = f"test-{uuid.uuid4().hex}"
    httpx.post(
        f"{mesh.url}/v1/chat/completions", json={**CHAT, "model": "nobody"}, headers={"x-request-id": request_id}
    )

    assert record(mesh, request_id)["status"] == "NOT_FOUND"
