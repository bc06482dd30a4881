"""The transformer as a process: it starts by itself, says where it is, and ends well on SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.channel import open_channel
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub

ROOT = Path(__file__).resolve().parents[2]
ENDPOINTS = """
endpoints: {predictor: ["127.0.0.1:1"]}
deployments:
  - name: m
    predictor: {model_format: llm, storage_uri: "file:///nowhere.gguf"}
    transformer: {steps: [chat_template]}
"""


class Process:
    """A service that was started, and what it wrote to its ready file."""

    def __init__(self, process: asyncio.subprocess.Process, ready: dict[str, object]) -> None:
        self.process = process
        self.ready = ready
        self.address = str(ready["grpc_address"])


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Process]:
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
        sys.executable, "-m", "transformer", *flags, cwd=ROOT, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(30):
            while not ready_file.exists():  # noqa: ASYNC110 -- a file has no event
                await asyncio.sleep(0.02)
        yield Process(process, json.loads(ready_file.read_text(encoding="utf-8")))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_serves_health_reflection_and_clear_errors(service: Process) -> None:
    async with open_channel(service.address) as channel:
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="mesh.v1.LanguageModel")
        )
        model_health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="m"))
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        [listed] = [
            answer
            async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([listing]))
        ]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(model_name="m", text="a"))

    assert health.status == health_pb2.HealthCheckResponse.SERVING
    assert model_health.status == health_pb2.HealthCheckResponse.SERVING  # says the endpoints file
    names = {entry.name for entry in listed.list_services_response.service}
    assert {"mesh.v1.LanguageModel", "mesh.v1.ExplainService", "inference.GRPCInferenceService"} <= names
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "'m'" in (caught.value.details() or "")


async def test_it_ends_on_sigterm_and_leaves_no_process(service: Process) -> None:
    children = psutil.Process(service.process.pid).children(recursive=True)
    assert children, "templates are rendered in processes of their own"

    service.process.send_signal(signal.SIGTERM)

    assert await asyncio.wait_for(service.process.wait(), 20) == 0
    assert not [child for child in children if child.is_running()]


async def test_its_template_workers_end_when_it_is_killed(service: Process) -> None:
    children = psutil.Process(service.process.pid).children(recursive=True)

    service.process.kill()
    await service.process.wait()

    _gone, alive = await asyncio.to_thread(psutil.wait_procs, children, 10)
    assert alive == []


async def test_a_taken_port_is_one_sentence_and_status_1(service: Process) -> None:
    port = service.address.rpartition(":")[2]

    second = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "transformer",
        f"--grpc-port={port}",
        "--metrics-port=0",
        cwd=ROOT,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _out, errors = await asyncio.wait_for(second.communicate(), 30)

    assert second.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors.decode()
    assert "Traceback" not in errors.decode()
