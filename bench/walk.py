"""Measures a mesh that runs, through its door: chat tokens per second and latencies, and tensor requests per second.

Usage: `make up` in one shell, `make bench` in another. It asserts nothing; machines differ, so quote ratios. The load
generator runs on the same cores as the mesh, as everywhere in this project's figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import httpx
from rich.console import Console
from rich.table import Table

T = TypeVar("T")

QUESTION = "Write a short story about a lighthouse keeper who finds a message in a bottle on a stormy night."
OUTPUT_TOKENS = 64
IRIS = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}


@dataclass(frozen=True, slots=True)
class Chat:
    """One streamed answer: seconds to its first token, between tokens, and in all."""

    first_token_s: float
    between_s: list[float]
    total_s: float
    tokens: int


async def chat(client: httpx.AsyncClient) -> Chat:
    """Ask one question and time its stream."""
    body = {
        "model": "smollm2",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": OUTPUT_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    started = time.perf_counter()
    stamps: list[float] = []
    tokens = 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[len("data: ") :])
            tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                stamps.append(time.perf_counter())
    between = [later - earlier for earlier, later in pairwise(stamps)]
    return Chat(stamps[0] - started, between, time.perf_counter() - started, tokens)


async def at_concurrency(job: Callable[[], Awaitable[T]], concurrency: int, count: int) -> tuple[list[T], float]:
    """Run `count` jobs, `concurrency` at a time; gives their results and the seconds that it took."""
    left = iter(range(count))
    results: list[T] = []

    async def worker() -> None:
        for _ in left:
            results.append(await job())

    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    return results, time.perf_counter() - started


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie, in milliseconds for values in seconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


async def measure_chat(client: httpx.AsyncClient, concurrency: int, rounds: int) -> dict[str, float]:
    """Output tokens per second and latencies at one concurrency."""
    chats, took_s = await at_concurrency(lambda: chat(client), concurrency, concurrency * rounds)
    between = [gap for each in chats for gap in each.between_s]
    return {
        "concurrency": concurrency,
        "tokens/s": sum(each.tokens for each in chats) / took_s,
        "TTFT p50 ms": percentile([each.first_token_s for each in chats], 0.5),
        "ITL p50 ms": percentile(between, 0.5),
        "ITL p99 ms": percentile(between, 0.99),
        "mean s": statistics.mean(each.total_s for each in chats),
    }


async def measure_iris(client: httpx.AsyncClient, concurrency: int, count: int) -> dict[str, float]:
    """Tensor requests per second over REST at one concurrency."""

    async def infer() -> float:
        started = time.perf_counter()
        (await client.post("/v2/models/iris/infer", json=IRIS)).raise_for_status()
        return time.perf_counter() - started

    latencies, took_s = await at_concurrency(infer, concurrency, count)
    return {
        "concurrency": concurrency,
        "requests/s": count / took_s,
        "p50 ms": percentile(latencies, 0.5),
        "p99 ms": percentile(latencies, 0.99),
    }


def show(console: Console, title: str, rows: list[dict[str, float]]) -> None:
    """Print rows of equal keys as a table."""
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:,.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)


async def bench(gateway: str, rounds: int, as_json: bool) -> None:
    """Run all measurements against one gateway."""
    async with httpx.AsyncClient(base_url=gateway, timeout=600) as client:
        await chat(client)
        chats = [await measure_chat(client, concurrency, rounds) for concurrency in (1, 8, 32)]
        tensors = [await measure_iris(client, concurrency, 500) for concurrency in (1, 8)]
    if as_json:
        print(json.dumps({"chat": chats, "iris": tensors}))
        return
    console = Console()
    show(console, f"chat/completions, streamed, {OUTPUT_TOKENS} tokens out", chats)
    show(console, "v2 REST infer, FP64[1,4]", tensors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gateway", default="http://127.0.0.1:8080", help="URL of a running mesh")
    parser.add_argument("--rounds", type=int, default=3, help="answers per client")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    try:
        asyncio.run(bench(options.gateway, options.rounds, options.json))
    except httpx.HTTPError as error:
        print(f"bench: no answer from {options.gateway} ({error or type(error).__name__}); start a mesh with `make up`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
