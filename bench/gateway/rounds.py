"""Slices of load, hop by hop and back again (A B A B), so that what slows the machine slows both alike."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.gateway.record import STREAM, UNARY, Memory, Slice
from bench.gateway.servers import Hop
from bench.gateway.stream_client import TOKENS, StreamClient
from bench.llm.figures import percentile_ms
from bench.oip import h2load
from bench.oip.h2load import H2Load
from bench.oip.load import Client, Load, Run
from bench.oip.message import SMALL
from bench.oip.python_client import UNARY as PYTHON_UNARY
from bench.oip.python_client import PythonClient
from bench.processes import memory_bytes, process_cpu_s


@dataclass(frozen=True, slots=True)
class Workload:
    """kind: UNARY, or STREAM whose requests are streams of TOKENS tokens."""

    kind: str
    load: Load

    @property
    def name(self) -> str:
        return f"{self.kind} c={self.load.concurrency}"

    def scaled(self, share: float) -> Workload:
        """The same with a share of its requests; for a quick look, not for figures."""
        num_requests = max(self.load.concurrency, round(share * self.load.num_requests))
        return Workload(self.kind, Load(num_requests, self.load.concurrency))

    @property
    def units(self) -> int:
        return self.load.num_requests * (TOKENS if self.kind == STREAM else 1)


WORKLOADS = (
    *(Workload(UNARY, Load(n, c)) for c, n in ((1, 800), (8, 2000), (32, 2000))),
    *(Workload(STREAM, Load(n, c)) for c, n in ((1, 4), (8, 32), (32, 128))),
)

MEMORY_REQUESTS = 100_000
MEMORY_STEP = 20_000
MEMORY_CONCURRENCY = 32


def unary_client() -> Client:
    """h2load, which costs least, or a client in Python where it is not installed."""
    if h2load.is_installed():
        return H2Load(is_grpc=True, request=SMALL.request, response_bytes=len(SMALL.response))
    return PythonClient(PYTHON_UNARY)


async def run_slice(hop: Hop, workload: Workload, round_number: int, folder: Path) -> Slice:
    """Raises BadLoad when an answer failed."""
    client: Client = unary_client() if workload.kind == UNARY else StreamClient()
    direct = await client.run(hop.direct_port, workload.load, folder)
    before_s = process_cpu_s(hop.pid)
    run: Run = await client.run(hop.port, workload.load, folder)
    cpu_s = process_cpu_s(hop.pid) - before_s
    return Slice(
        hop=hop.name,
        kind=workload.kind,
        concurrency=workload.load.concurrency,
        round=round_number,
        units=workload.units,
        units_per_s=workload.units / run.took_s,
        cpu_us=1e6 * cpu_s / workload.units,
        p50_ms=percentile_ms(run.latencies_s, 50) or 0.0,
        p99_ms=percentile_ms(run.latencies_s, 99) or 0.0,
        direct_p50_ms=percentile_ms(direct.latencies_s, 50) or 0.0,
        direct_p99_ms=percentile_ms(direct.latencies_s, 99) or 0.0,
    )


async def run_rounds(
    hops: Sequence[Hop], workloads: Sequence[Workload], num_rounds: int, folder: Path
) -> AsyncGenerator[Slice, None]:
    """All slices as they come; the first round, which warms caches, is left out. Raises BadLoad."""
    for workload in workloads:
        for round_number in range(num_rounds + 1):
            for hop in hops:
                measured = await run_slice(hop, workload, round_number, folder)
                if round_number:
                    yield measured


async def run_memory(hop: Hop, share: float, folder: Path) -> AsyncGenerator[Memory, None]:
    """Memory after each fifth of the requests. Raises BadLoad."""
    step = max(MEMORY_CONCURRENCY, round(share * MEMORY_STEP))
    load = Load(step, MEMORY_CONCURRENCY)
    for requests in range(step, step * (MEMORY_REQUESTS // MEMORY_STEP) + 1, step):
        await unary_client().run(hop.port, load, folder)
        yield Memory(requests=requests, pss_mb=memory_bytes(hop.pid) / 1e6)
