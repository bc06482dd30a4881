"""The compiled kernels, built once a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.llm.native.compiler import build
from predictor.llm.native.library import NativeLibrary


@pytest.fixture(scope="session")
def library(artifact_cache_dir: Path) -> NativeLibrary:
    """For this CPU."""
    return NativeLibrary(build(artifact_cache_dir))
