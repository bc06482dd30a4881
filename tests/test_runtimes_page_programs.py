"""docs/runtimes.md on programs and classes: its code runs as it stands, its deployments are read, its options exist."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from predictor.runtimes import RUNTIMES
from predictor.runtimes.base import ModelArtifact, Runtime
from predictor.runtimes.options import read_options
from predictor.runtimes.python.runtime import PythonOptions, PythonRuntime
from predictor.runtimes.torch_program import TorchOptions, TorchRuntime
from tests.e2e.running import ROOT

PAGE = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
SECTIONS = {"PyTorch": TorchOptions, "Your own Python class": PythonOptions}
EVERY_SECTION = pytest.mark.parametrize("title", SECTIONS)


def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    return text


def block(title: str, language: str) -> str:
    (text,) = re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)
    return text


@EVERY_SECTION
def test_the_options_are_those_of_the_code(title: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`)? ?\|", section(title), re.MULTILINE)

    assert rows == [(field.name, str(field.default)) for field in dataclasses.fields(SECTIONS[title])]


@EVERY_SECTION
def test_the_deployment_is_one(title: str) -> None:
    (deployment,) = yaml.safe_load(block(title, "yaml"))["deployments"]

    assert deployment["predictor"]["model_format"] in RUNTIMES
    assert read_options(deployment["predictor"]["options"], SECTIONS[title])


async def load(runtime: Runtime, path: Path) -> None:
    artifact = ModelArtifact("m", "1", path, "0" * 64, may_run_code=isinstance(runtime, PythonRuntime))
    await runtime.load(artifact, lambda *progress: None, lambda *health: None)


async def test_what_the_page_exports_is_served(tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        exec(block("PyTorch", "python"), {})  # noqa: S102 -- the page's own code
    runtime = TorchRuntime()

    await load(runtime, tmp_path / "model.pt2")
    answer = await runtime.infer({"input": np.zeros((3, 4), np.float32)})

    assert runtime.metadata.max_batch_size == 256
    assert answer["output"].shape == (3, 3)
    await runtime.unload()


async def test_the_class_of_the_page_is_served(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(block("Your own Python class", "python"))
    np.save(tmp_path / "mean.npy", np.array([1, 2, 3], np.float32))
    runtime = PythonRuntime()

    await load(runtime, tmp_path)
    answer = await runtime.infer({"rows": np.array([[2, 4, 6]], np.float32)})

    np.testing.assert_array_equal(answer["scaled"], [[1, 2, 3]])
    await runtime.unload()
