"""docs/models.md: its deployments are read as it says, its settings and metrics exist, its reasons are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from mesh.deployments import parse_deployments, versions_of
from predictor.model_entry import LOADING_ON_DEMAND, ON_DEMAND
from predictor.settings import PredictorSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_example_is_what_the_page_says_it_is() -> None:
    [example] = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)

    iris, churn = parse_deployments(yaml.safe_load(example), "docs/models.md")

    assert versions_of(iris) == ["2", "1", "3"]
    assert [version.model_format for version in iris.predictor.versions] == ["sklearn", "onnx"]
    assert iris.predictor.versions[0].options["num_threads"] == "1"
    assert not iris.predictor.versions[1].options
    assert versions_of(churn) == ["1"]


@pytest.mark.parametrize("setting", ["memory_budget_mb", "load_wait_s", "max_load_waiters", "unload_timeout_s"])
def test_the_settings_of_the_page_exist(setting: str) -> None:
    assert f"`{setting}`" in PAGE or f"`{setting} " in PAGE
    assert setting in PredictorSettings.model_fields


def test_the_metrics_of_the_page_are_in_the_list_of_metrics() -> None:
    known = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(meshserve_\w+)", PAGE))

    assert len(named) >= 7
    assert {name for name in named if f"`{name}`" not in known} == set()


@pytest.mark.parametrize("reason", [ON_DEMAND, LOADING_ON_DEMAND, "unloaded"])
def test_the_reasons_of_the_page_are_those_of_the_index(reason: str) -> None:
    assert f"`{reason}`" in PAGE
