"""Which kernels a CPU gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.llm.native.targets import AVX2, AVX512, AVX512_BF16, PORTABLE, Target, best_target, cpu_flags

OLD = frozenset({"fpu", "sse2", "avx"})
HASWELL = OLD | {"avx2", "fma", "f16c", "bmi1", "bmi2"}
SKYLAKE = HASWELL | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
CASCADE_LAKE = SKYLAKE | {"avx512_vnni"}
SAPPHIRE_RAPIDS = CASCADE_LAKE | {"avx512_bf16", "amx_bf16", "amx_tile", "amx_int8"}


@pytest.mark.parametrize(
    ("flags", "target"),
    [
        (frozenset(), PORTABLE),
        (OLD, PORTABLE),
        (HASWELL - {"f16c"}, PORTABLE),
        (HASWELL, AVX2),
        (SKYLAKE, AVX2),
        (CASCADE_LAKE, AVX512),
        (SAPPHIRE_RAPIDS, AVX512_BF16),
    ],
)
def test_a_cpu_gets_the_fastest_that_it_can_run(flags: frozenset[str], target: Target) -> None:
    assert best_target(flags, "x86_64") is target


def test_another_machine_gets_what_runs_anywhere() -> None:
    assert best_target(frozenset({"fp", "asimd"}), "aarch64") is PORTABLE


def test_the_compiler_is_told_what_the_cpu_is_asked_for() -> None:
    assert AVX2.compiler_flags == ("-mavx2", "-mf16c", "-mfma")
    assert {"-mavx512vnni", "-mavx512bf16"} <= set(AVX512_BF16.compiler_flags)


def test_cpu_flags_are_those_of_the_first_cpu(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nprocessor\t: 1\nflags\t\t: other\n")

    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "fma"}
    assert cpu_flags(tmp_path / "missing") == frozenset()
