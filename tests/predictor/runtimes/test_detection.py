"""Which format an address means."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.runtimes import FORMATS_BY_FOLDER, FORMATS_BY_SUFFIX, RUNTIMES
from predictor.runtimes.detection import detect_format


@pytest.mark.parametrize(
    ("uri", "model_format"),
    [
        ("./tiny.gguf", "llm"),
        ("https://models.example/iris.onnx", "onnx"),
        ("file:///models/m.ubj", "xgboost"),
        ("model.json", "xgboost"),
        ("model.txt", "lightgbm"),
        ("model.lgb", "lightgbm"),
        ("model.joblib", "sklearn"),
        ("net.pt2", "torch"),
        ("./folder", "sklearn"),
    ],
)
def test_a_file_s_name_says_its_format(uri: str, model_format: str) -> None:
    assert detect_format(uri) == model_format


@pytest.mark.parametrize(
    ("names", "model_format"),
    [
        (["config.json", "model.safetensors"], "llm"),
        (["metadata.json", "model.skops"], "sklearn"),
        (["metadata.json", "model.onnx", "model.onnx.data"], "onnx"),
        (["metadata.json", "model.json"], "xgboost"),
        (["metadata.json"], "sklearn"),
        (["README.md", "model.txt"], "lightgbm"),
    ],
)
def test_a_folder_says_its_format_by_what_lies_in_it(tmp_path: Path, names: list[str], model_format: str) -> None:
    for name in names:
        (tmp_path / name).touch()

    assert detect_format(str(tmp_path)) == detect_format(f"file://{tmp_path}") == model_format


@pytest.mark.parametrize(("content", "model_format"), [(b"tree\nversion=v4", "lightgbm"), (b'{"learner"', "xgboost")])
def test_a_name_that_two_formats_share_is_told_by_the_content(
    tmp_path: Path, content: bytes, model_format: str
) -> None:
    (tmp_path / "model.bst").write_bytes(content)

    assert detect_format(str(tmp_path)) == detect_format(str(tmp_path / "model.bst")) == model_format


def test_every_format_that_is_found_is_one_that_is_served() -> None:
    found = {*FORMATS_BY_SUFFIX.values(), *FORMATS_BY_FOLDER.values()}

    assert found <= RUNTIMES.keys()
