"""What a token costs on its way: CPU time and context switches of every process between the engine and the client.

    python -m bench.path [--concurrency 1,32] [--requests N] [--tokens 64] [--idle-s 20] [--direct]

Starts a mesh of its own on free ports, streams chats through its door, and reads each process's CPU time from /proc
before and after. CPU time says more than wall time on a machine that others use as well. `--direct` streams from the
predictor's gRPC server too, without gateway and transformer, in turn (A B A B). Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
import uvloop

from mesh.v1 import language_model_pb2 as lm

QUESTION = "Write a short story about a lighthouse keeper who finds a message in a bottle on a stormy night."
START_S = 120.0
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":(\d+)')


@dataclass(frozen=True, slots=True)
class Load:
    """cpu_s: user and system time. switches: times that a thread of it waited, and times that one was interrupted."""

    cpu_s: float
    waited: int
    interrupted: int

    def since(self, earlier: Load) -> Load:
        return Load(self.cpu_s - earlier.cpu_s, self.waited - earlier.waited, self.interrupted - earlier.interrupted)


def load_of(pid: int) -> Load:
    """The process's load so far; threads that ended meanwhile are missing in the switches, not in the time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    cpu_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    waited = interrupted = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        counts = dict(re.findall(r"(\w+voluntary_ctxt_switches|voluntary_ctxt_switches):\s+(\d+)", status.read_text()))
        waited += int(counts["voluntary_ctxt_switches"])
        interrupted += int(counts["nonvoluntary_ctxt_switches"])
    return Load(cpu_s, waited, interrupted)


def memory_mb(pid: int) -> float:
    """Proportional set size: pages that processes share are divided among them."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.findall(r"Pss:\s+(\d+) kB", text)[0]) / 1024


@dataclass(frozen=True, slots=True)
class Mesh:
    """A running mesh. processes: name → process id."""

    http: tuple[str, int]
    predictor: str
    processes: dict[str, int]


@contextmanager
def running_mesh() -> Iterator[Mesh]:
    """`meshserve up` on free ports, until the block ends."""
    with tempfile.TemporaryDirectory(prefix="meshserve-path-") as folder:
        state = Path(folder) / "state"
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--state-dir", str(state), "--free-ports"],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            mesh = _wait_ready(process, state)
            print(f"ready after {time.monotonic() - started:.1f} s")
            yield mesh
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(40)


def _wait_ready(process: subprocess.Popen[bytes], state: Path) -> Mesh:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            info = json.loads((state / "run.json").read_text())
            services = {service["name"]: service for service in info["services"]}
            host, _, port = info["gateway_url"].removeprefix("http://").partition(":")
            answers = asyncio.run(_ask(host, int(port)))
        except (OSError, ValueError, KeyError):
            answers = 0
        if answers:
            processes = {name: int(service["pid"]) for name, service in services.items()}
            processes["engine"] = _engine_of(processes["predictor"])
            processes["supervisor"] = process.pid
            return Mesh((host, int(port)), str(services["predictor"]["grpc_address"]), processes)
        time.sleep(0.05)
    raise SystemExit("the mesh did not start")


def _engine_of(predictor: int) -> int:
    for task in Path(f"/proc/{predictor}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"predictor.llm.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise SystemExit("the predictor has no engine process")


async def _ask(host: str, port: int) -> int:
    return await chat(host, port, 1)


async def chat(host: str, port: int, num_tokens: int) -> int:
    """Stream one chat; gives the tokens that its usage says. Reads bytes only: the client must cost little."""
    body = json.dumps(
        {
            "model": "smollm2",
            "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": num_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    )
    last = b""
    while data := await reader.read(1 << 16):
        last = (last + data)[-1024:]
    writer.close()
    found = _COMPLETION_TOKENS.findall(last)
    if not found:
        raise ValueError(f"no usage in the answer's end: {last!r}")
    return int(found[-1])


async def generate(channel: grpc.aio.Channel, num_tokens: int) -> int:
    """As `chat`, from the predictor itself, with the prompt that the transformer renders."""
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    request = lm.GenerateRequest(
        model_name="smollm2",
        text=f"{system}<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
        sampling=lm.SamplingParameters(temperature=0, max_tokens=num_tokens, ignore_eos=True),
    )
    rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/mesh.v1.LanguageModel/Generate")
    last = b""
    async for message in rpc(request.SerializeToString()):
        last = message
    return lm.GenerateResponse.FromString(last).usage.output_tokens


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement: output tokens, seconds, and the load of each process."""

    tokens: int
    took_s: float
    loads: dict[str, Load]

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.took_s

    def cpu_us(self) -> float:
        return 1e6 * sum(load.cpu_s for load in self.loads.values()) / self.tokens


async def measure(job: Callable[[], Awaitable[int]], concurrency: int, count: int, processes: dict[str, int]) -> Round:
    """Run `job` `count` times, `concurrency` at a time."""
    left = iter(range(count))
    tokens = 0

    async def worker() -> None:
        nonlocal tokens
        for _ in left:
            got = await job()  # apart: `+=` would read the sum before it waits
            tokens += got

    before = {name: load_of(pid) for name, pid in processes.items()}
    started = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(concurrency)))
    took_s = time.perf_counter() - started
    return Round(tokens, took_s, {name: load_of(pid).since(before[name]) for name, pid in processes.items()})


def show(title: str, rounds: list[Round]) -> None:
    """A row per process; medians over the rounds."""
    rates = [each.tokens_per_s for each in rounds]
    cpu = [each.cpu_us() for each in rounds]
    print(f"\n{title}: {statistics.median(rates):,.0f} tokens/s ({min(rates):,.0f}–{max(rates):,.0f}), ", end="")
    print(f"{statistics.median(cpu):,.0f} µs CPU a token ({min(cpu):,.0f}–{max(cpu):,.0f})")
    print("| process | µs CPU a token | waits a token | interruptions a token |\n|---|---|---|---|")
    for name in rounds[0].loads:
        loads = [(each.loads[name], each.tokens) for each in rounds]
        cells = (
            statistics.median(1e6 * load.cpu_s / tokens for load, tokens in loads),
            statistics.median(load.waited / tokens for load, tokens in loads),
            statistics.median(load.interrupted / tokens for load, tokens in loads),
        )
        print(f"| {name} | {cells[0]:,.1f} | {cells[1]:.2f} | {cells[2]:.3f} |")


def show_idle(mesh: Mesh, idle_s: float) -> None:
    before = {name: load_of(pid) for name, pid in mesh.processes.items()}
    time.sleep(idle_s)
    print(
        f"\nidle for {idle_s:g} s\n| process | CPU ms a second | waits a second | memory (PSS), MB |\n|---|---|---|---|"
    )
    for name, pid in mesh.processes.items():
        load = load_of(pid).since(before[name])
        print(f"| {name} | {1e3 * load.cpu_s / idle_s:.2f} | {load.waited / idle_s:.1f} | {memory_mb(pid):.0f} |")
    total = sum(memory_mb(pid) for pid in mesh.processes.values())
    serving = memory_mb(mesh.processes["predictor"]) + memory_mb(mesh.processes["engine"])
    print(f"memory in all: {total:.0f} MB, of which predictor and engine {serving:.0f} MB")


async def bench(mesh: Mesh, options: argparse.Namespace) -> None:
    """All measurements of one mesh."""
    processes = {**mesh.processes, "load generator": os.getpid()}
    jobs: dict[str, Callable[[], Awaitable[int]]] = {
        "through gateway and transformer": lambda: chat(*mesh.http, options.tokens)
    }
    async with grpc.aio.insecure_channel(mesh.predictor) as channel:
        if options.direct:
            jobs["predictor direct"] = lambda: generate(channel, options.tokens)
        for concurrency in options.concurrency:
            rounds: dict[str, list[Round]] = {name: [] for name in jobs}
            for number, (name, job) in itertools.product(range(options.rounds + 1), jobs.items()):
                count = max(concurrency, options.requests) if concurrency > 1 else max(1, options.requests // 8)
                measured = await measure(job, concurrency, count, processes)
                if number:  # the first round warms caches
                    rounds[name].append(measured)
            for name in jobs:
                show(f"{name}, concurrency {concurrency}", rounds[name])
            if options.direct:
                ratios = [a.tokens_per_s / b.tokens_per_s for a, b in zip(*rounds.values(), strict=True)]
                print(f"ratio of tokens/s: {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--concurrency", type=lambda text: [int(part) for part in text.split(",")], default=[32, 1])
    parser.add_argument("--requests", type=int, default=64, help="answers per round; an eighth of it at concurrency 1")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--idle-s", type=float, default=0.0, help="then measure the idle mesh for so many seconds")
    parser.add_argument("--direct", action="store_true", help="also from the predictor itself")
    parser.add_argument("--hold", action="store_true", help="print process ids and wait for Enter before measuring")
    options = parser.parse_args()
    with running_mesh() as mesh:
        if options.hold:
            input(f"{mesh.processes}, http {mesh.http}, predictor {mesh.predictor}; Enter goes on ")
        uvloop.run(bench(mesh, options))
        if options.idle_s:
            show_idle(mesh, options.idle_s)


if __name__ == "__main__":
    main()
