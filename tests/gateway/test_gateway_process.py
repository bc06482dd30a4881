"""`python -m gateway` as a process: its start, its end, its errors, and the trace that it leaves."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.conftest import eventually, fake_mesh
from tests.gateway.fake_language_model import FakeLanguageModel
from tests.gateway.fake_mesh import FakeExplainer, FakeInference

FREE = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")


async def started(*flags: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", *flags, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def gateway(folder: Path, *flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, Any]]]:
    """A gateway process that is ready, and what its ready file says."""
    ready_file = folder / "ready.json"
    process = await started(
        *FREE, "--state-dir", str(folder), "--ready-file", str(ready_file), "--drain-s", "0", *flags
    )
    try:

        async def is_ready() -> bool:
            assert process.returncode is None, (await process.communicate())[1].decode()
            return ready_file.exists()

        await eventually(is_ready, 60)
        yield process, json.loads(ready_file.read_text())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_gateway_serves_traces_and_ends_on_sigterm(tmp_path: Path) -> None:
    traces = tmp_path / "traces.jsonl"
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with (
        fake_mesh(tmp_path, FakeLanguageModel(), FakeInference(), FakeExplainer()) as endpoints,
        gateway(tmp_path, "--endpoints", str(endpoints), "--trace-file", str(traces)) as (process, ready),
        httpx.AsyncClient(trust_env=False) as client,
    ):
        answer = await client.post(
            f"http://{ready['http_address']}/v1/chat/completions",
            json={"model": "chat", "messages": [{"role": "user", "content": "hi"}]},
            headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", "x-request-id": "r-1"},
        )
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.communicate()

    assert answer.status_code == 200
    assert process.returncode == 0
    (span,) = [span for span in map(json.loads, traces.read_text().splitlines()) if span["trace_id"] == trace_id]
    assert span["name"] == "POST /v1/chat/completions"
    attributes = span["attributes"]
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/v1/chat/completions", 200)
    assert attributes["meshserve.request_id"] == "r-1"
    assert attributes["gen_ai.request.model"] == "chat"
    assert (attributes["gen_ai.usage.input_tokens"], attributes["gen_ai.usage.output_tokens"]) == (5, 3)
    assert json.loads((tmp_path / "predictions.jsonl").read_text())["trace_id"] == trace_id


async def test_taken_http_port_is_one_sentence_and_status_1(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        process = await started(*FREE, "--state-dir", str(tmp_path), "--http-port", port)
        async with asyncio.timeout(60):
            _, stderr = await process.communicate()

    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port} (--http-port)" in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def test_gateway_without_a_registry_serves_and_says_what_is_not_there(tmp_path: Path) -> None:
    async with gateway(tmp_path, "--registry", "127.0.0.1:1") as (_, ready), httpx.AsyncClient() as client:
        url = f"http://{ready['http_address']}"
        assert (await client.get(f"{url}/v2/health/live")).status_code == 200
        answer = await client.post(f"{url}/v1/completions", json={"model": "chat", "prompt": "x"})

    assert answer.status_code == 404
    assert "deployed: nothing" in answer.json()["error"]["message"]


async def test_wrong_endpoints_file_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    endpoints = tmp_path / "endpoints.yaml"
    endpoints.write_text("endpoints: [1]\ndeployments: []\n")
    process = await started(*FREE, "--state-dir", str(tmp_path), "--endpoints", str(endpoints))
    async with asyncio.timeout(60):
        _, stderr = await process.communicate()

    assert process.returncode == 1
    assert "endpoints must be a mapping" in stderr.decode()
