"""Memory and CPU of a process tree, seen on a real one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from bench.processes import CpuTimes, PeakMemory, cpu_shares, cpu_times, memory_bytes, tree

# A parent with a child that holds 64 MiB, touches each page of it, says so, and waits to be ended.
CHILD = "data = b'x' * (64 << 20); print('ready', flush=True); input()"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


@pytest.fixture
def parent() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    yield process.pid
    process.communicate(b"\n", timeout=30)


def test_the_memory_of_a_tree_holds_that_of_its_children(parent: int) -> None:
    alone = psutil.Process(parent).memory_full_info().pss

    assert len(tree(parent)) == 2
    assert memory_bytes(parent) - alone >= 64 << 20


async def test_the_peak_is_what_was_seen_at_least_once(parent: int) -> None:
    async with PeakMemory(parent) as peak:
        pass

    assert peak.size_bytes >= 64 << 20


def test_a_process_that_is_gone_has_no_memory() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()

    assert (tree(process.pid), memory_bytes(process.pid)) == ([], 0)


def test_shares_are_of_all_cpus_and_the_rest_is_the_others() -> None:
    before = CpuTimes(clock_s=100.0, machine_s=1000.0, tree_s=50.0, own_s=5.0)
    after = CpuTimes(clock_s=110.0, machine_s=1016.0, tree_s=62.0, own_s=6.0)

    shares = cpu_shares(before, after, num_cpus=2)

    assert (shares.server, shares.generator) == (0.6, 0.05)
    assert shares.others == pytest.approx(0.15)


def test_more_of_ours_than_of_the_machine_leaves_nothing_to_others() -> None:
    shares = cpu_shares(CpuTimes(0.0, 0.0, 0.0, 0.0), CpuTimes(1.0, 1.0, 1.1, 0.0), num_cpus=1)

    assert shares.others == 0.0


def test_cpu_time_goes_on() -> None:
    before = cpu_times(1)
    sum(range(200_000))
    after = cpu_times(1)

    # What the kernel counts in ticks goes on, but a sum of its fields in floating point may differ in its last bit.
    tick_s = 1e-6
    assert after.clock_s > before.clock_s
    assert after.own_s >= before.own_s - tick_s
    assert after.machine_s >= before.machine_s - tick_s
