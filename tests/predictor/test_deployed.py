"""Which models are served: the deployments file, the flags, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import InvalidInput
from predictor.deployed import deployed_models
from predictor.loader import ModelSpec

FILE = """
deployments:
  - name: smollm2
    predictor: {model_format: llm, storage_uri: "file:///m.gguf", model_version: 3, options: {dtype: float32},
                versions: [{model_version: 2, storage_uri: "file:///old.gguf"}]}
    transformer: {steps: [chat_template]}
  - name: iris
    predictor: {model_format: sklearn, storage_uri: "file:///iris"}
"""


def test_models_come_from_the_file_and_from_flags(tmp_path: Path) -> None:
    path = tmp_path / "deployments.yaml"
    path.write_text(FILE)

    specs = deployed_models(path, ["other=./folder", "tiny=./tiny.gguf"])

    assert specs == [
        ModelSpec("smollm2", "llm", "file:///m.gguf", "3", None, {"dtype": "float32"}),
        ModelSpec("smollm2", "llm", "file:///old.gguf", "2", None, {"dtype": "float32"}),
        ModelSpec("iris", "sklearn", "file:///iris", "1"),
        ModelSpec("other", "sklearn", "./folder"),
        ModelSpec("tiny", "llm", "./tiny.gguf"),
    ]


def test_a_folder_with_a_configuration_is_a_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    specs = deployed_models(None, [f"a={tmp_path}", f"b=file://{tmp_path}", f"c={tmp_path.parent}"])

    assert [spec.model_format for spec in specs] == ["llm", "llm", "sklearn"]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["iris"], "--model is 'iris'; it must be name=uri"),
        (["iris="], "--model is 'iris='; it must be name=uri"),
        (["a b=x"], "is not a valid name"),
        (["iris=a", "iris=b"], "model 'iris' is given twice"),
    ],
)
def test_a_wrong_flag_is_named(flags: list[str], sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        deployed_models(None, flags)
