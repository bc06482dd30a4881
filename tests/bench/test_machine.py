"""What is read of /proc/cpuinfo, and this machine."""

from __future__ import annotations

from pathlib import Path

from bench.machine import commit, cpu_fields, this_machine

CPUINFO = (
    "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 amx_int8\n\nprocessor\t: 1\nmodel name\t: Other\n"
)


def test_fields_are_those_of_the_first_cpu() -> None:
    assert cpu_fields(CPUINFO) == {"processor": "0", "model name": "Some CPU", "flags": "fpu avx2 amx_int8"}


def test_this_machine_has_a_cpu_and_memory() -> None:
    machine = this_machine()

    assert machine.num_cpus > 0 and machine.memory_gib > 0 and machine.cpu


def test_a_folder_without_git_has_no_commit(tmp_path: Path) -> None:
    assert commit(tmp_path) == "unknown"
