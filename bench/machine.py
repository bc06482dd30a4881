"""What a figure was measured on: CPU, memory, kernel, the commit."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import psutil
from pydantic import BaseModel, ConfigDict

# Instructions that decide how fast a language model runs on a CPU.
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_bf16", "amx_int8")


class Machine(BaseModel):
    """memory_gib: all that is there. cpu_flags: of those that matter here, the ones that this CPU has."""

    model_config = ConfigDict(frozen=True)

    cpu: str
    num_cpus: int
    cpu_flags: tuple[str, ...]
    memory_gib: float
    kernel: str
    python: str


def this_machine() -> Machine:
    """The one we are on; Linux."""
    fields = cpu_fields(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    flags = fields.get("flags", "").split()
    return Machine(
        cpu=fields.get("model name", platform.machine()),
        num_cpus=len(os.sched_getaffinity(0)),
        cpu_flags=tuple(flag for flag in _FLAGS if flag in flags),
        memory_gib=psutil.virtual_memory().total / 2**30,
        kernel=platform.release(),
        python=platform.python_version(),
    )


def cpu_fields(cpuinfo: str) -> dict[str, str]:
    """The fields of the first CPU in the text of /proc/cpuinfo."""
    first = cpuinfo.partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def commit(root: Path) -> str:
    """The commit of the checkout at `root`, "+" behind it when files differ; "unknown" without git."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=10", "--dirty=+"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return described.stdout.strip()
