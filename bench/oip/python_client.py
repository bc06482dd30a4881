"""A gRPC client in Python, in a process of its own: unary calls, or requests on one ModelStreamInfer.

`python -m bench.oip.python_client KIND PORT REQUESTS CONCURRENCY ROWS` prints seconds and latencies as JSON. It sends
and takes bytes: what it costs is gRPC's. For streams there is no other client, and unary calls through it show what a
service in Python sees of a server, which is often the client itself.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc.aio
import uvloop

from bench.oip.load import BadLoad, Load, Run
from bench.oip.message import MODEL_INFER, MODEL_STREAM_INFER, message

UNARY, STREAM = "unary", "stream"
TIMEOUT_S = 120.0
# The tag of ModelStreamInferResponse.error_message.
_ERROR = b"\x0a"
_OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


@dataclass(frozen=True, slots=True)
class PythonClient:
    """Implements bench.oip.load.Client. kind: UNARY or STREAM. rows: of the tensor."""

    kind: str
    rows: int = 1

    async def run(self, port: int, load: Load, folder: Path) -> Run:
        del folder
        numbers = map(str, (port, load.num_requests, load.concurrency, self.rows))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.oip.python_client", self.kind, *numbers),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise BadLoad(errors.decode(errors="replace").strip().rpartition("\n")[2])
        took_s, latencies_s = json.loads(output)
        return Run(took_s, tuple(latencies_s))


async def unary(channel: grpc.aio.Channel, request: bytes, load: Load) -> list[float]:
    """Latencies of unary calls, `load.concurrency` at a time."""
    infer: Any = channel.unary_unary(MODEL_INFER)
    latencies: list[float] = []
    left = iter(range(load.num_requests))

    async def ask_on() -> None:
        for _ in left:
            began = perf_counter()
            await infer(request, timeout=TIMEOUT_S)
            latencies.append(perf_counter() - began)

    await asyncio.gather(*(ask_on() for _ in range(load.concurrency)))
    return latencies


async def stream(channel: grpc.aio.Channel, request: bytes, load: Load) -> list[float]:
    """Latencies of requests on one stream, with `load.concurrency` unanswered ones at a time; answers come in order."""
    window = asyncio.Semaphore(load.concurrency)
    began: list[float] = []

    async def requests() -> AsyncIterator[bytes]:
        for _ in range(load.num_requests):
            await window.acquire()
            began.append(perf_counter())
            yield request

    latencies: list[float] = []
    call: Any = channel.stream_stream(MODEL_STREAM_INFER)
    async for response in call(requests(), timeout=TIMEOUT_S):
        if response.startswith(_ERROR):
            raise BadLoad(f"an answer on the stream is an error: {response!r}")
        latencies.append(perf_counter() - began[len(latencies)])
        window.release()
    return latencies


async def main(kind: str, port: int, load: Load, rows: int) -> None:
    request = message(rows).request
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        ask = stream if kind == STREAM else unary
        await ask(channel, request, Load(min(load.concurrency, load.num_requests), load.concurrency))
        began = perf_counter()
        latencies = await ask(channel, request, load)
        print(json.dumps([perf_counter() - began, latencies]))


if __name__ == "__main__":
    _kind, *_numbers = sys.argv[1:]
    _port, _num_requests, _concurrency, _rows = map(int, _numbers)
    uvloop.run(main(_kind, _port, Load(_num_requests, _concurrency), _rows))
