"""One mesh for the tests that do it no harm, and one of its own for each that does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import Mesh, start, stop


@pytest.fixture(scope="session")
def mesh(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for all tests that do it no harm. `smollm2_gguf`: the model is in the cache by then."""
    running = start(tmp_path_factory.mktemp("mesh"))
    yield running
    stop(running)


@pytest.fixture
def own_mesh(smollm2_gguf: Path, tmp_path: Path) -> Iterator[Mesh]:
    """A mesh for a test that does it harm."""
    running = start(tmp_path)
    yield running
    if running.process.poll() is None:
        stop(running)
