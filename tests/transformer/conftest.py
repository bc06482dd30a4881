"""Fixtures of the transformer's tests: template files, and workers that render."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from transformer.template_runner import TemplateLimits, TemplateRunnerPool


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """SmolLM2's own template, and four in the manner of other families, by name."""
    folder = Path(__file__).parent / "templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}


@pytest.fixture
async def runner() -> AsyncIterator[TemplateRunnerPool]:
    """A running pool of one template worker with tight limits."""
    pool = TemplateRunnerPool(TemplateLimits(time_s=0.5, memory_bytes=256 << 20, output_chars=100_000), max_waiting=4)
    await pool.start()
    yield pool
    await pool.close()
