"""Fixtures of the predictor's tests: the trained iris folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.train_iris import train


@pytest.fixture(scope="session")
def iris_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder as the example script writes it."""
    folder = tmp_path_factory.mktemp("models") / "iris"
    train(folder)
    return folder
