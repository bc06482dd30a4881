"""The explainer reads what these runtimes say of themselves: names, baseline, classes, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainer.methods.shapley import Shapley
from explainer.tables import explain_table
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array, Tensor, encode_request
from predictor.runtimes.base import Runtime
from predictor.runtimes.lightgbm import LightgbmRuntime
from predictor.runtimes.xgboost import XgboostRuntime
from tests.predictor.runtimes.trained import FEATURES, TARGETS, lightgbm_classifier, loaded, xgboost_classifier

METADATA = {
    "feature_names": ["sepal length", "sepal width", "petal length", "petal width"],
    "feature_baseline": [round(float(mean), 3) for mean in FEATURES.mean(axis=0)],
    "class_names": ["setosa", "versicolor", "virginica"],
}


class NoWire:
    """Answers as explainer.predict_fn.PredictFn does, by the runtime itself."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def config(self) -> oip.ModelConfig:
        metadata = self._runtime.metadata
        config = oip.ModelConfig(name="iris", max_batch_size=metadata.max_batch_size)
        for name, text in metadata.parameters.items():
            config.parameters[name].string_value = text
        return config

    async def infer(self, name: str, datatype: str, rows: Array, max_rows: int = 0) -> dict[str, Array]:
        [spec] = self._runtime.metadata.inputs
        assert (name, datatype) == (spec.name, spec.datatype)
        dtype = {"FP32": np.float32, "FP64": np.float64}[datatype]
        return dict(await self._runtime.infer({name: rows.astype(dtype)}))


def save_xgboost(folder: Path) -> Runtime:
    xgboost_classifier().save_model(folder / "model.ubj")
    return XgboostRuntime()


def save_lightgbm(folder: Path) -> Runtime:
    lightgbm_classifier().booster_.save_model(folder / "model.txt")
    return LightgbmRuntime()


@pytest.mark.parametrize("save", [save_xgboost, save_lightgbm])
async def test_a_row_is_explained_by_its_features(tmp_path: Path, save: Any) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps(METADATA))
    runtime = await loaded(save(tmp_path), tmp_path)
    [spec] = runtime.metadata.inputs
    row = FEATURES[-1:].astype(np.float32 if spec.datatype == "FP32" else np.float64)
    request = oip.ModelInferRequest(model_name="iris")
    encode_request(request, [Tensor("input", spec.datatype, row)])

    [explanation] = await explain_table(request, Shapley(), NoWire(runtime), 0)  # type: ignore[arg-type]

    assert TARGETS[-1] == 2
    assert explanation.target == "virginica"
    assert [one.name for one in explanation.attributions] == METADATA["feature_names"]
    total = sum(one.value for one in explanation.attributions)
    assert total == pytest.approx(explanation.score - explanation.base_score, abs=1e-6)
