"""Fixtures of the predictor's tests: model folders that are made here."""

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


@pytest.fixture(scope="session")
def xgboost_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of irises, by XGBoost."""
    from tests.predictor.runtimes import trained

    path = tmp_path_factory.mktemp("xgboost") / "model.ubj"
    trained.xgboost_classifier().save_model(path)
    return path


@pytest.fixture(scope="session")
def lightgbm_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of irises, by LightGBM."""
    from tests.predictor.runtimes import trained

    path = tmp_path_factory.mktemp("lightgbm") / "model.txt"
    trained.lightgbm_classifier().booster_.save_model(path)
    return path


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network, exported from PyTorch."""
    from tests.predictor.runtimes import trained

    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    path.write_bytes(trained.exported_network(trained.network()))
    return path
