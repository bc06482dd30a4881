"""Deployment files: what is read, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.deployments import check_deployment, read_deployments
from mesh.errors import InvalidInput
from mesh.v1.registry_pb2 import Deployment, ExplainerSpec, PredictorSpec, TransformerSpec

IRIS = "name: iris, predictor: {model_format: sklearn, storage_uri: 'file:///m'}"


def read(tmp_path: Path, text: str) -> list[Deployment]:
    path = tmp_path / "mesh.yaml"
    path.write_text(text)
    return read_deployments(path)


def test_all_fields_are_read(tmp_path: Path) -> None:
    [deployment] = read(
        tmp_path,
        """
deployments:
  - name: smollm2
    predictor: {model_format: llm, storage_uri: "pypi://a/1/b", sha256: "%s", model_version: 2,
                options: {dtype: auto, warm: true, threads: 2}}
    transformer: {steps: [chat_template]}
    explainer: {method: leave_one_out}
    labels: {team: a}
"""
        % ("ab" * 32),
    )

    assert deployment == Deployment(
        name="smollm2",
        predictor=PredictorSpec(
            model_format="llm",
            storage_uri="pypi://a/1/b",
            sha256="ab" * 32,
            model_version="2",
            options={"dtype": "auto", "warm": "true", "threads": "2"},
        ),
        transformer=TransformerSpec(steps=["chat_template"]),
        explainer=ExplainerSpec(method="leave_one_out"),
        labels={"team": "a"},
    )


def test_version_defaults_to_one_and_parts_left_out_are_not_set(tmp_path: Path) -> None:
    [deployment] = read(tmp_path, f"deployments: [{{{IRIS}}}]")

    assert deployment.predictor.model_version == "1"
    assert not deployment.HasField("transformer")
    assert not deployment.HasField("explainer")


@pytest.mark.parametrize("written", ["explainer: {}", "explainer:"])
def test_part_without_fields_is_set(tmp_path: Path, written: str) -> None:
    [deployment] = read(tmp_path, f"deployments:\n  - {{{IRIS}}}\n".replace("}}", "}, " + written + "}"))

    assert deployment.HasField("explainer")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[", "is not YAML"),
        ("- a", "must be a mapping, is a list"),
        ("a: 1", "deployments must be a list"),
        ("deployments: [3]", "deployment number 1: the entry must be a mapping, is a number"),
        ("deployments: [{name: iris}]", "deployment 'iris': predictor is not set"),
        ("deployments: [{name: Iris, predictor: {}}]", "deployment 'Iris': name 'Iris' is not a valid name"),
        ("deployments: [{name: a, predictor: {uri: x}}]", "'a': predictor.uri is not a field; the fields are model_f"),
        ("deployments: [{name: a, generation: 2}]", "generation is not a field"),
        ("deployments: [{name: a, predictor: 4}]", "predictor must be a mapping, is a number"),
        ("deployments: [{name: a, transformer: {steps: chat}}]", "transformer.steps must be a list, is text"),
        ("deployments: [{name: a, transformer: {steps: [[1]]}}]", "transformer.steps[0] must be text, is a list"),
        ("deployments: [{name: a, labels: [1]}]", "labels must be a mapping, is a list"),
        (f"deployments: [{{{IRIS}}}, {{{IRIS}}}]", "deployment 'iris' is there twice"),
    ],
)
def test_mistake_is_named_with_file_deployment_and_field(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, text)

    assert caught.value.message.startswith(str(tmp_path / "mesh.yaml"))
    assert sentence in caught.value.message
    assert "\n" not in caught.value.message


def test_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.yaml: cannot be read: No such file"):
        read_deployments(tmp_path / "none.yaml")


def test_check_changes_a_copy_only() -> None:
    given = Deployment(name="a", predictor=PredictorSpec(model_format="x", storage_uri="file:///m"))

    assert check_deployment(given).predictor.model_version == "1"
    assert given.predictor.model_version == ""
