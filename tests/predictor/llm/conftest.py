"""Fixtures of the engine's tests: the real model, loaded once."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.llm.loader import LoadedModel, load_model


@pytest.fixture(scope="session")
def smollm2_float32(smollm2_gguf: Path) -> LoadedModel:
    """SmolLM2-135M-Instruct in float32, as transformers computes it."""
    return load_model(smollm2_gguf, num_threads=2, dtype="float32")
