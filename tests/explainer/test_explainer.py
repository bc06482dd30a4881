"""The explainer as a process: it starts by itself, says where it is, and ends well on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.channel import open_channel
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1 import explain_pb2
from mesh.v1.explain_pb2_grpc import ExplainServiceStub

ROOT = Path(__file__).resolve().parents[2]
ENDPOINTS = """
endpoints: {predictor: ["127.0.0.1:1"]}
deployments:
  - name: m
    predictor: {model_format: llm, storage_uri: "file:///nowhere.gguf"}
    explainer: {}
"""


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """The process, and what it wrote to its ready file."""
    endpoints, ready_file = tmp_path / "endpoints.yaml", tmp_path / "ready.json"
    endpoints.write_text(ENDPOINTS, encoding="utf-8")
    flags = [
        "--grpc-port=0",
        "--metrics-port=0",
        "--drain-s=0",
        "--hold-s=0",
        f"--endpoints={endpoints}",
        f"--ready-file={ready_file}",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "explainer", *flags, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while not ready_file.exists():  # noqa: ASYNC110 -- a file has no event
                await asyncio.sleep(0.02)
        yield process, json.loads(ready_file.read_text(encoding="utf-8"))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_serves_explains_and_ends_on_sigterm(
    service: tuple[asyncio.subprocess.Process, dict[str, str]],
) -> None:
    process, ready = service
    async with open_channel(ready["grpc_address"]) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="mesh.v1.ExplainService")
        )
        metadata = await GRPCInferenceServiceStub(channel).ServerMetadata(oip.ServerMetadataRequest())
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            subject = explain_pb2.TextSubject(text="a", target="b")
            await ExplainServiceStub(channel).Explain(explain_pb2.ExplainRequest(model_name="m", text=subject))
    metrics = await asyncio.to_thread(_get, f"http://{ready['metrics_address']}/metrics")

    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert metadata.name == "meshserve-explainer"
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 'meshserve_explainer_explanation_seconds_count{method="leave_one_out",model_name="m"} 1.0' in metrics

    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 20) == 0


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        text: str = page.read().decode()
    return text
