"""A predictor as it is really run: a process of its own on free ports, watched through its ready file and its log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio

from mesh.channel import open_channel
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 30.0


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float, what: str) -> None:
    """Wait until `condition` is true; fail when `within_s` seconds have passed."""
    deadline = time.monotonic() + within_s
    while not await condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        await asyncio.sleep(0.05)


def run_to_its_end(*flags: str) -> subprocess.CompletedProcess[str]:
    """A predictor that is expected to end by itself."""
    command = [sys.executable, "-m", "predictor", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_S, check=False)


@dataclass
class RunningPredictor:
    """A started predictor; `folder` holds its ready file and its log."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def addresses(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.folder / "ready.json").read_text())
        return found

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's events of that name, so far."""
        lines = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == name]

    def channel(self) -> grpc.aio.Channel:
        """The caller closes it."""
        return open_channel(self.addresses["grpc_address"])

    async def until_ready(self, model: str, within_s: float = START_S) -> None:
        async with self.channel() as channel:
            stub = GRPCInferenceServiceStub(channel)

            async def is_ready() -> bool:
                assert self.process.poll() is None, self.log
                return (await stub.ModelReady(oip.ModelReadyRequest(name=model))).ready

            await eventually(is_ready, within_s, f"model '{model}' is ready\n{self.log[-2000:]}")

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.terminate()
        return self.process.wait(STOP_S)


@asynccontextmanager
async def running_predictor(folder: Path, *flags: str, module: str = "predictor") -> AsyncIterator[RunningPredictor]:
    """Start a predictor and wait until it listens; it is gone afterwards, whatever happens."""
    command = [
        *(sys.executable, "-m", module, "--grpc-port", "0", "--metrics-port", "0", "--drain-s", "0"),
        *("--ready-file", str(folder / "ready.json"), "--state-dir", str(folder / "state"), *flags),
    ]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)  # noqa: ASYNC220
    predictor = RunningPredictor(process, folder)

    async def listens() -> bool:
        assert process.poll() is None, predictor.log
        return (folder / "ready.json").exists()

    try:
        await eventually(listens, START_S, "the predictor listens")
        yield predictor
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(STOP_S)
