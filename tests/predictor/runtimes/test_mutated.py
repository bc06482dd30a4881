"""Broken and hostile model files: each is refused, or loads and computes; this process lives in any case."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mesh.errors import CorruptArtifact, MeshError
from predictor.runtimes.base import ModelArtifact, Runtime
from predictor.runtimes.in_process import OpenModel, blank
from predictor.runtimes.lightgbm import LightgbmRuntime
from predictor.runtimes.lightgbm import try_booster as try_lightgbm
from predictor.runtimes.onnx import OnnxRuntime, try_session
from predictor.runtimes.xgboost import XgboostRuntime
from predictor.runtimes.xgboost import try_booster as try_xgboost
from tests.predictor.runtimes.mutated import mutated

NUM_SEEDS = 32

FORMATS: dict[str, tuple[str, Callable[[Path], OpenModel], type[Runtime]]] = {
    "xgboost_file": ("model.ubj", try_xgboost, XgboostRuntime),
    "xgboost_json": ("model.json", try_xgboost, XgboostRuntime),
    "lightgbm_file": ("model.txt", try_lightgbm, LightgbmRuntime),
    "onnx_file": ("model.onnx", try_session, OnnxRuntime),
}


@pytest.fixture
def xgboost_json(xgboost_file: Path, tmp_path: Path) -> Path:
    import xgboost

    path = tmp_path / "whole.json"
    xgboost.Booster(model_file=xgboost_file).save_model(path)
    return path


def outcomes(read: Callable[[Path], OpenModel], files: list[Path]) -> list[dict[str, Any]]:
    reader = f"{read.__module__}:{read.__name__}"
    command = [sys.executable, "-m", "tests.predictor.runtimes.mutated", reader, *map(str, files)]
    run = subprocess.run(command, capture_output=True, check=True, timeout=110)
    found: list[dict[str, Any]] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("fixture", list(FORMATS))
async def test_a_mutated_file_is_refused_or_loads(fixture: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    name, read, runtime_class = FORMATS[fixture]
    whole = request.getfixturevalue(fixture).read_bytes()
    files = [tmp_path / f"{seed}" / name for seed in range(NUM_SEEDS)]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        file.write_bytes(mutated(whole, seed))

    found = outcomes(read, files)

    passed = [file for file, outcome in zip(files, found, strict=True) if outcome.get("error", "died") is None]
    failed = [(file, outcome) for file, outcome in zip(files, found, strict=True) if file not in passed]
    assert passed and failed
    # A reader that fails in a way that it does not know is a fault of ours.
    assert [outcome["traceback"] for _, outcome in failed if "traceback" in outcome] == []
    for file in passed:
        compute_with(read(file))
    # One of each kind of end goes the whole way.
    for file, _ in {("died" in outcome): (file, outcome) for file, outcome in failed}.values():
        runtime = runtime_class()
        with pytest.raises(CorruptArtifact):
            await runtime.load(ModelArtifact("m", "1", file, "0" * 64), lambda *_: None, lambda *_: None)
        await runtime.unload()


def compute_with(model: OpenModel) -> None:
    """Let rows of every kind go through the model: whatever branch is wrong, some row takes it."""
    rng = np.random.default_rng(0)
    for _ in range(8):
        inputs = {}
        for spec in model.metadata.inputs:
            one = blank(spec)
            rows = np.broadcast_to(one, (64, *one.shape[1:]))
            inputs[spec.name] = (rows + rng.normal(scale=4, size=rows.shape)).astype(one.dtype)
        with contextlib.suppress(MeshError):
            model.predict(inputs)
