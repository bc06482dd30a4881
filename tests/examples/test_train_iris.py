"""The iris example: the same model each time, in a folder that is whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skops.io
from sklearn.datasets import load_iris

from examples.train_iris import train

ROOT = Path(__file__).resolve().parents[2]
FEATURES, TARGETS = load_iris(return_X_y=True)


def test_the_same_model_comes_out_each_time(tmp_path: Path) -> None:
    train(tmp_path / "one")
    train(tmp_path / "two")

    one, two = (skops.io.load(tmp_path / name / "model.skops") for name in ("one", "two"))

    np.testing.assert_array_equal(one.predict_proba(FEATURES), two.predict_proba(FEATURES))
    assert (one.predict(FEATURES) == TARGETS).mean() > 0.95
    assert (tmp_path / "one/metadata.json").read_bytes() == (tmp_path / "two/metadata.json").read_bytes()


def test_metadata_names_what_explanations_need(tmp_path: Path) -> None:
    train(tmp_path / "iris")

    metadata = json.loads((tmp_path / "iris/metadata.json").read_text())

    assert len(metadata["feature_names"]) == len(metadata["feature_baseline"]) == 4
    assert metadata["class_names"] == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose(metadata["feature_baseline"], FEATURES.mean(axis=0), atol=1e-6)


def test_an_old_folder_is_replaced_and_nothing_else_remains(tmp_path: Path) -> None:
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris/old").write_text("old")

    train(tmp_path / "iris")

    assert [path.name for path in tmp_path.iterdir()] == ["iris"]
    assert sorted(path.name for path in (tmp_path / "iris").iterdir()) == ["metadata.json", "model.skops"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "iris").write_text("a file where the folder should be")

    with pytest.raises(OSError):
        train(tmp_path / "iris")

    assert [path.name for path in tmp_path.iterdir()] == ["iris"]


def test_it_runs_as_the_readme_says(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.train_iris", "--out", str(tmp_path / "deep" / "iris")]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == f"wrote {tmp_path / 'deep' / 'iris'}\n"
    assert (tmp_path / "deep/iris/model.skops").is_file()
