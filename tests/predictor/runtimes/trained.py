"""Models for the tests, trained or exported by their own libraries in well under a second."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import torch
import xgboost
from numpy.typing import NDArray
from sklearn.datasets import load_iris

from predictor.runtimes.base import Arrays, ModelArtifact, Runtime

FEATURES: NDArray[np.float64]
TARGETS: NDArray[np.int64]
FEATURES, TARGETS = load_iris(return_X_y=True)


async def loaded(runtime: Runtime, path: Path, *, may_run_code: bool = False, **options: str) -> Runtime:
    """`runtime`, with the model at `path`, warm."""
    artifact = ModelArtifact("model", "1", path, "0" * 64, options, may_run_code=may_run_code)
    await runtime.load(artifact, lambda *progress: None, lambda *health: None)
    await runtime.warm()
    return runtime


async def answer(runtime: Runtime, rows: NDArray[Any]) -> Arrays:
    """What `runtime` answers to `rows`, as its one input wants them."""
    return await runtime.infer({"input": np.ascontiguousarray(rows, dtype={"FP32": "<f4", "FP64": "<f8"}[
        runtime.metadata.inputs[0].datatype
    ])})  # fmt: skip


def xgboost_classifier(**parameters: Any) -> xgboost.XGBClassifier:
    given = {"n_estimators": 5, "max_depth": 3, "n_jobs": 1, **parameters}
    return xgboost.XGBClassifier(**given).fit(FEATURES, TARGETS)


def lightgbm_classifier(**parameters: Any) -> lightgbm.LGBMClassifier:
    given = {"n_estimators": 5, "num_leaves": 6, "n_jobs": 1, "verbose": -1, **parameters}
    return lightgbm.LGBMClassifier(**given).fit(FEATURES, TARGETS)


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


def exported_network(module: torch.nn.Module) -> bytes:
    """`module`, of rows of four numbers, as ONNX with the input `x` and the output `scores`, both [batch, …]."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package is the older one
        torch.onnx.export(
            module, (torch.zeros(1, 4),), buffer, dynamo=False, input_names=["x"], output_names=["scores"],
            dynamic_axes={"x": {0: "batch"}, "scores": {0: "batch"}},
        )  # fmt: skip
    return buffer.getvalue()
