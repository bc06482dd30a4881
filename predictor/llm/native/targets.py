"""The kinds of CPU that the kernels are compiled for, and which of them this one is.

A target is a fixed set of instructions, not "this machine": so a library that was compiled elsewhere, in an image's
builder for example, can be told by its name. All targets give the same bits. Knows no compiler and no files of its own.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

# Below these the kernels work, but PyTorch's are faster.
FAST_CPU_FLAGS = frozenset({"avx2", "fma", "f16c"})

_AVX512_CPU_FLAGS = FAST_CPU_FLAGS | {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Target:
    """compiler_flags: what the compiler may use. cpu_flags: what a CPU must have, in the words of /proc/cpuinfo."""

    name: str
    compiler_flags: tuple[str, ...]
    cpu_flags: frozenset[str]


def _x86(name: str, cpu_flags: frozenset[str]) -> Target:
    return Target(name, tuple(f"-m{flag.replace('_', '')}" for flag in sorted(cpu_flags)), cpu_flags)


PORTABLE = Target("portable", (), frozenset())
AVX2 = _x86("avx2", FAST_CPU_FLAGS)
AVX512 = _x86("avx512", _AVX512_CPU_FLAGS)
# With the kernels for AMX in it: whoever has AMX has all of this, and they are used only where they are asked for.
AVX512_BF16 = _x86("avx512_bf16", _AVX512_CPU_FLAGS | {"avx512_bf16"})

# The best first.
X86_TARGETS = (AVX512_BF16, AVX512, AVX2)


def best_target(flags: frozenset[str], machine: str = platform.machine()) -> Target:
    """The fastest that runs on a CPU with these flags.

    AVX-512 without VNNI (before 2019) takes AVX2: the integer products, most of the work, would be the same.
    """
    targets = X86_TARGETS if machine == "x86_64" else ()
    return next((target for target in targets if target.cpu_flags <= flags), PORTABLE)


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The features that the kernel reports for the first CPU; empty where it reports none."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return frozenset()
    for line in first.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
