"""docs/runtimes.md on embeddings and reranking: its deployments are read, its tensors and options are the runtimes'."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mesh import plugins
from predictor.deployed import deployed_models
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import ModelArtifact
from predictor.runtimes.embedding import EmbeddingOptions
from predictor.runtimes.reranker import RerankerOptions

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "runtimes.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
CASES = [("Embeddings", "embedding", "minilm_folder"), ("Reranking", "reranker", "reranker_folder")]


@pytest.fixture
def model_path(fixture: str, request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(fixture)
    return path


@pytest.mark.parametrize(("title", "model_format", "fixture"), CASES)
async def test_deployment_is_read_and_the_tensors_are_the_models(
    title: str, model_format: str, model_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "mesh.yaml").write_text(re.findall(r"```yaml\n(.*?)```", SECTIONS[title], re.DOTALL)[0])
    runtime: Any = plugins.load(RUNTIMES, model_format, "model format")()

    [spec] = deployed_models(tmp_path / "mesh.yaml", [])
    options = {name: text for name, text in spec.options.items() if name != "max_tokens"}  # the small model has 40
    artifact = ModelArtifact("m", "1", model_path, "0" * 64, options)
    await runtime.load(artifact, lambda *_: None, lambda *_: None)

    assert spec.model_format == model_format
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z0-9]+) \| \[([-0-9, ]+)\] \|", SECTIONS[title], re.MULTILINE)
    assert [(name, datatype, tuple(int(size) for size in shape.split(","))) for name, datatype, shape in rows] == [
        (one.name, one.datatype, one.shape) for one in (*runtime.metadata.inputs, *runtime.metadata.outputs)
    ]
    await runtime.unload()


def test_every_option_is_on_the_page_with_its_default() -> None:
    shared = option_rows("Embeddings")

    assert shared == defaults(EmbeddingOptions)
    of_embeddings_only = {"pooling", "normalize"}
    assert {k: v for k, v in shared.items() if k not in of_embeddings_only} | option_rows("Reranking") == defaults(
        RerankerOptions
    )


def option_rows(title: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| ([a-z0-9]+) \| ", SECTIONS[title], re.MULTILINE))


def defaults(options: Any) -> dict[str, str]:
    return {field.name: str(field.default).lower() for field in fields(options)}
