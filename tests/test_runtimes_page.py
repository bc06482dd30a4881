"""docs/runtimes.md: its code saves models that its deployments serve, with the tensors of its tables."""

from __future__ import annotations

import contextlib
import re
import runpy
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mesh import plugins
from predictor.batching_options import split_options
from predictor.deployed import deployed_models
from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import ModelArtifact
from predictor.runtimes.detection import detect_format

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "runtimes.md").read_text(encoding="utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
FORMATS = {"scikit-learn": "sklearn", "XGBoost": "xgboost", "LightGBM": "lightgbm", "ONNX": "onnx"}
EVERY_SECTION = pytest.mark.parametrize("title", list(FORMATS))


def block(language: str, title: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", SECTIONS[title], re.DOTALL)
    return str(found)


@EVERY_SECTION
async def test_what_the_code_saves_is_served_as_the_page_says(title: str, tmp_path: Path) -> None:
    folder, deployments = tmp_path / "model", tmp_path / "deployments.yaml"
    folder.mkdir()
    deployments.write_text(block("yaml", title))

    # Before the page's own imports: the runtime keeps skops from bringing torch along.
    runtime = plugins.load(RUNTIMES, FORMATS[title], "model format")()
    run(block("python", title), folder)

    [spec] = deployed_models(deployments, [])
    assert spec.model_format == FORMATS[title] == detect_format(str(folder))
    _, options = split_options(spec.options)
    await runtime.load(ModelArtifact("m", "1", folder, "0" * 64, options), lambda *_: None, lambda *_: None)
    await runtime.warm()
    served = [
        (spec.name, spec.datatype, list(spec.shape)) for spec in (*runtime.metadata.inputs, *runtime.metadata.outputs)
    ]
    assert tensors(title) == served
    await runtime.unload()


def run(program: str, folder: Path) -> None:
    """Run `program` in `folder`, in this process: its libraries take seconds to import, and are here already."""
    file = folder.parent / "program.py"
    file.write_text(program)
    with contextlib.chdir(folder):
        runpy.run_path(str(file))


def tensors(title: str) -> list[tuple[str, str, list[int]]]:
    """The rows of the section's table of tensors."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| \[([-0-9, ]+)\] \|", SECTIONS[title], re.MULTILINE)
    return [(name, datatype, [int(size) for size in shape.split(",")]) for name, datatype, shape in rows]


@EVERY_SECTION
def test_every_option_is_on_the_page_with_its_default(title: str) -> None:
    options: Any = plugins.load(RUNTIMES, FORMATS[title], "model format").options_class
    table = dict(re.findall(r"^\| `(\w+)` \| (\S+) \| ", SECTIONS["Tables: rows in, predictions out"], re.MULTILINE))
    table |= {
        name: default
        for name, default in re.findall(r"^\| `(\w+)` \| (\S+) \| ", SECTIONS[title], re.MULTILINE)
        if default not in {datatype for _, datatype, _ in tensors(title)}
    }

    assert table == {field.name: str(field.default).lower() for field in fields(options)}


def test_the_files_of_every_format_are_on_the_page() -> None:
    for model_format in FORMATS.values():
        [row] = re.findall(rf"^\| \[`{model_format}`\].*$", PAGE, re.MULTILINE)
        named = set(re.findall(r"`model(\.\w+)`", row))
        module = sys.modules[plugins.load(RUNTIMES, model_format, "model format").__module__]
        assert named == set(module.SUFFIXES)
