"""A client of generations, in a process of its own: `python -m bench.gateway.stream_client PORT STREAMS CONCURRENCY`.

Prints, as JSON, the seconds that it took and how long each token was on its way to it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import uvloop

from bench.gateway.backend import GENERATE, said_at_s
from bench.oip.load import BadLoad, Load, Run
from bench.oip.message import MODEL
from mesh.v1 import language_model_pb2 as lm

TOKENS = 100
TIMEOUT_S = 120.0
PROMPT = "Write a short story about a lighthouse keeper who finds a message in a bottle on a stormy night."
_REQUEST = lm.GenerateRequest(
    model_name=MODEL, text=PROMPT, sampling=lm.SamplingParameters(max_tokens=TOKENS)
).SerializeToString()


@dataclass(frozen=True, slots=True)
class StreamClient:
    """Implements bench.oip.load.Client: requests are streams of TOKENS tokens, latencies are of tokens."""

    async def run(self, port: int, load: Load, folder: Path) -> Run:
        del folder
        numbers = map(str, (port, load.num_requests, load.concurrency))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.gateway.stream_client", *numbers),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise BadLoad(errors.decode(errors="replace").strip().rpartition("\n")[2])
        took_s, latencies_s = json.loads(output)
        return Run(took_s, tuple(latencies_s))


async def generate(channel: grpc.aio.Channel) -> list[float]:
    """Seconds that each token of one stream was on its way. Raises BadLoad when one is missing."""
    latencies_s = []
    call: Any = channel.unary_stream(GENERATE)
    async for message in call(_REQUEST, timeout=TIMEOUT_S):
        if (made_at_s := said_at_s(message)) is not None:
            latencies_s.append(time.monotonic() - made_at_s)
    if len(latencies_s) != TOKENS:
        raise BadLoad(f"a stream of {len(latencies_s)} tokens, where {TOKENS} were asked for")
    return latencies_s


async def main(port: int, load: Load) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        left = iter(range(load.num_requests))
        latencies_s: list[float] = []

        async def ask_on() -> None:
            for _ in left:
                latencies_s.extend(await generate(channel))

        began = time.perf_counter()
        try:
            await asyncio.gather(*(ask_on() for _ in range(load.concurrency)))
        except grpc.aio.AioRpcError as error:
            raise BadLoad(f"a stream failed: {error.code().name}: {error.details()}") from None
        print(json.dumps([time.perf_counter() - began, latencies_s]))


if __name__ == "__main__":
    _port, *_numbers = map(int, sys.argv[1:])
    uvloop.run(main(_port, Load(*_numbers)))
