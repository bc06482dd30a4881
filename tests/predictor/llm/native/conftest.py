"""The compiled kernels, built once a machine."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from predictor.llm.native.compiler import FAST_CPU_FLAGS, build, cpu_flags
from predictor.llm.native.library import NativeLibrary


@pytest.fixture(scope="session")
def library(artifact_cache_dir: Path) -> NativeLibrary:
    """For this CPU."""
    return NativeLibrary(build(artifact_cache_dir))


@pytest.fixture(scope="session")
def avx2_library(artifact_cache_dir: Path) -> NativeLibrary:
    """For any CPU with AVX2, whatever more this one has."""
    if platform.machine() != "x86_64" or not cpu_flags() >= FAST_CPU_FLAGS:
        pytest.skip("this CPU has no AVX2")
    return NativeLibrary(build(artifact_cache_dir, target="haswell"))
