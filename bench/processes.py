"""What a server and the rest of the machine use meanwhile: memory of its process tree, and everybody's CPU time.

Memory is PSS (proc_pid_smaps(5)): pages that processes share count once over all of them, so that the sum over a tree
is what would be free without it. Linux only.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

# Reading PSS walks the page tables, a few ms a GiB: often enough to see a peak, seldom enough not to be one.
SAMPLE_EVERY_S = 1.0


def tree(pid: int) -> list[psutil.Process]:
    """The process and all below it; empty when it is gone."""
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def memory_bytes(pid: int) -> int:
    """PSS of the tree. A process that ends meanwhile counts as nothing."""
    total = 0
    for process in tree(pid):
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """Seconds of CPU since some beginning, over all CPUs, and the clock beside them."""

    clock_s: float
    machine_s: float
    tree_s: float
    own_s: float


@dataclass(frozen=True, slots=True)
class CpuShares:
    """Shares of all CPUs of the machine, 0 to 1: of the server, of the load generator, of everybody else."""

    server: float
    generator: float
    others: float


def cpu_times(pid: int) -> CpuTimes:
    """As of now. What children of the tree used counts after their end, too, where their parent has waited for them."""
    of_machine = psutil.cpu_times()
    of_tree = 0.0
    for process in tree(pid):
        with suppress(psutil.Error):
            of_tree += sum(process.cpu_times()[:4])
    # guest time is in user time already; time that waits for a disk is idle.
    busy = sum(of_machine) - of_machine.idle - of_machine.iowait - of_machine.guest - of_machine.guest_nice
    own = os.times()
    return CpuTimes(perf_counter(), busy, of_tree, own.user + own.system)


def cpu_shares(before: CpuTimes, after: CpuTimes, num_cpus: int) -> CpuShares:
    """Who used the machine between two looks. `others` includes what the hypervisor gave to its other guests."""
    capacity_s = (after.clock_s - before.clock_s) * num_cpus
    server = (after.tree_s - before.tree_s) / capacity_s
    generator = (after.own_s - before.own_s) / capacity_s
    machine = (after.machine_s - before.machine_s) / capacity_s
    return CpuShares(server, generator, max(0.0, machine - server - generator))


class PeakMemory:
    """Watches a tree's memory as long as it is open: `async with PeakMemory(pid) as peak: … peak.size_bytes`."""

    def __init__(self, pid: int) -> None:
        self.size_bytes = 0
        self._pid = pid
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> PeakMemory:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._look()

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(SAMPLE_EVERY_S)

    async def _look(self) -> None:
        # In a thread: the load generator must not wait for it.
        self.size_bytes = max(self.size_bytes, await asyncio.to_thread(memory_bytes, self._pid))


def tree_cpu_s(pid: int) -> float:
    """Seconds of user and system time of the tree so far."""
    total = 0.0
    for process in tree(pid):
        with suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def reset_peak(pid: int) -> None:
    """Forget the peak of the tree's resident memory (proc_pid_clear_refs(5), 5)."""
    for process in tree(pid):
        with suppress(OSError):
            Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")


def tree_peak_bytes(pid: int) -> int:
    """The sum of each process's most resident memory since its start, or since `reset_peak`."""
    total = 0
    for process in tree(pid):
        with suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
            total += sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))
    return total


def process_cpu_s(pid: int) -> float:
    """Seconds of CPU of one process and its threads so far, those that ended among them, to the nanosecond.

    The clock of another process, as clock_getcpuclockid(3) makes it; /proc counts in ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)
