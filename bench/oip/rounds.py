"""One turn of one contender: start, every workload that it has a front for, end. Figures are of its processes."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from time import perf_counter

from bench.llm.figures import percentile_ms
from bench.oip.contender import Contender, Setup
from bench.oip.h2load import H2Load
from bench.oip.load import BadLoad, Client, Load, Run, joined, parts
from bench.oip.message import SMALL
from bench.oip.probe import NoAnswer, wait_for_grpc, wait_for_rest
from bench.oip.python_client import STREAM, UNARY, PythonClient
from bench.oip.record import Point
from bench.oip.workloads import Workload
from bench.processes import cpu_shares, cpu_times, reset_peak, tree, tree_cpu_s, tree_peak_bytes
from bench.server_process import CannotStart, spawn, stop, tail

START_TIMEOUT_S = 90.0
WARM_UP = Load(1000, 16)


async def run_turn(
    contender: Contender, workloads: Sequence[Workload], round_number: int, tell: Callable[[Point], None]
) -> list[Point]:
    """Raises CannotStart. tell: is told each point as soon as it is there."""
    points = []
    with tempfile.TemporaryDirectory(prefix="meshserve-bench-") as name, ExitStack() as ending:
        folder = Path(name)
        setup = contender.setup(folder)
        processes = {}
        for process_name, command in setup.processes.items():
            processes[process_name] = spawn(command, folder / f"{process_name}.log")
            ending.callback(stop, processes[process_name])
        sizes = await asyncio.to_thread(_wait, contender, setup, processes, folder)
        warm_fronts: set[str] = set()
        for workload in workloads:
            # A bare server has a ready answer to the small request only.
            if workload.front not in contender.fronts or (contender.is_limit and workload.rows > 1):
                continue
            turn = _Turn(setup, processes, sizes, folder)
            if workload.front not in warm_fronts:
                warm_fronts.add(workload.front)
                await turn.warm_up(workload)
            points.append(await turn.point(contender.name, workload, round_number))
            tell(points[-1])
    return points


class _Turn:
    """A running contender. sizes: bytes of a right answer by front."""

    def __init__(
        self,
        setup: Setup,
        processes: dict[str, subprocess.Popen[bytes]],
        sizes: dict[str, int],
        folder: Path,
    ) -> None:
        self._setup = setup
        self._processes = processes
        self._sizes = sizes
        self._folder = folder

    async def warm_up(self, workload: Workload) -> None:
        with suppress(BadLoad):  # the point itself will say so
            await self._run(workload, WARM_UP)

    async def point(self, contender: str, workload: Workload, round_number: int) -> Point:
        for process in self._processes.values():
            reset_peak(process.pid)
        first = next(iter(self._processes.values())).pid
        before = {name: tree_cpu_s(process.pid) for name, process in self._processes.items()}
        machine, began = cpu_times(first), perf_counter()
        run, error = Run(0.0, ()), None
        try:
            run = await self._run(workload, workload.load)
        except BadLoad as bad:
            error = str(bad)
        took_s = max(perf_counter() - began, 1e-9)
        count = max(1, len(run.latencies_s))
        used_s = {name: tree_cpu_s(process.pid) - before[name] for name, process in self._processes.items()}
        shares = cpu_shares(machine, cpu_times(first), 1)
        return Point(
            contender=contender,
            workload=workload.name,
            round=round_number,
            requests_per_s=len(run.latencies_s) / run.took_s if run.took_s else 0.0,
            p50_ms=percentile_ms(run.latencies_s, 50),
            p99_ms=percentile_ms(run.latencies_s, 99),
            cpu_us={name: 1e6 * cpu_s / count for name, cpu_s in used_s.items()},
            peak_mb={name: tree_peak_bytes(process.pid) / 1e6 for name, process in self._processes.items()},
            # All CPU time but that of the servers; the client's is in it.
            others_cpus=shares.server + shares.generator + shares.others - sum(used_s.values()) / took_s,
            error=error,
        )

    async def _run(self, workload: Workload, load: Load) -> Run:
        ports = self._setup.rest if workload.front == "REST" else self._setup.grpc
        shares = parts(load, len(ports))
        client = self._client(workload)
        pairs = zip(ports, shares, strict=False)
        return joined(await asyncio.gather(*(client.run(port, share, self._folder) for port, share in pairs)))

    def _client(self, workload: Workload) -> Client:
        if workload.is_python:
            return PythonClient(STREAM if workload.front == "stream" else UNARY, workload.rows)
        is_grpc = workload.front == "gRPC"
        return H2Load(is_grpc, SMALL.request if is_grpc else SMALL.json_request, self._sizes[workload.front])


def _wait(
    contender: Contender, setup: Setup, processes: dict[str, subprocess.Popen[bytes]], folder: Path
) -> dict[str, int]:
    """Bytes of a right answer by front, once every port gives one."""
    sizes = {}
    try:
        for port in setup.grpc:
            sizes["gRPC"] = sizes["stream"] = wait_for_grpc(
                port, SMALL, START_TIMEOUT_S, is_checked=contender.is_checked
            )
        for port in setup.rest:
            sizes["REST"] = wait_for_rest(port, SMALL, START_TIMEOUT_S)
    except NoAnswer as error:
        ended = [name for name, process in processes.items() if process.poll() is not None or not tree(process.pid)]
        said = "; ".join(f"{name}: {tail(folder / f'{name}.log')}" for name in ended or processes)
        raise CannotStart(f"{contender.name}: {error}; {said}") from error
    return sizes
