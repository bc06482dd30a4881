"""Deployment files: what is read, and what each mistake is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.deployments import check_deployment, read_deployments, versions_of
from mesh.errors import InvalidInput
from mesh.v1.registry_pb2 import (
    Canary,
    Deployment,
    ExplainerSpec,
    Mirror,
    PredictorSpec,
    RouteRule,
    TrafficSpec,
    TransformerSpec,
    VersionSpec,
)

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


def with_versions(*versions: VersionSpec, **fields: Any) -> Deployment:
    predictor = PredictorSpec(
        model_format="sklearn", storage_uri="file:///one", sha256="a" * 64, options={"num_threads": "2"}, **fields
    )
    predictor.versions.extend(versions)
    return Deployment(name="iris", predictor=predictor)


def test_further_versions_are_read_from_the_file(tmp_path: Path) -> None:
    [deployment] = read(
        tmp_path,
        """
deployments:
  - name: iris
    predictor:
      model_format: sklearn
      storage_uri: file:///models/iris-2
      model_version: 2
      options: {num_threads: 2}
      versions:
        - {model_version: 1, storage_uri: "file:///models/iris-1"}
        - model_version: 3
          model_format: onnx
          storage_uri: file:///models/iris-3
          options: {warm: true}
""",
    )

    assert versions_of(deployment) == ["2", "1", "3"]
    first, third = deployment.predictor.versions
    assert (first.model_format, first.storage_uri, dict(first.options)) == (
        "sklearn",
        "file:///models/iris-1",
        {"num_threads": "2"},
    )
    assert (third.model_format, dict(third.options)) == ("onnx", {"warm": "true"})


def test_a_version_takes_what_it_does_not_say_from_the_deployed_one() -> None:
    checked = check_deployment(
        with_versions(
            VersionSpec(model_version="2"),
            VersionSpec(model_version="3", storage_uri="file:///three"),
            VersionSpec(model_version="4", model_format="onnx"),
        )
    )

    same, elsewhere, other_format = checked.predictor.versions
    assert (same.storage_uri, same.sha256, same.model_format) == ("file:///one", "a" * 64, "sklearn")
    assert (elsewhere.sha256, elsewhere.options["num_threads"]) == ("", "2")
    assert not other_format.options
    assert versions_of(checked) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        (VersionSpec(model_version="1"), "versions[0].model_version '1' is there twice; the deployed version is '1'"),
        (VersionSpec(), "predictor.versions[0].model_version is empty"),
        (VersionSpec(model_version="2", storage_uri="two"), "predictor.versions[0].storage_uri 'two' is not a URI"),
        (VersionSpec(model_version="2", sha256="x"), "predictor.versions[0].sha256 'x' is not a SHA-256"),
        (VersionSpec(model_version="2", model_format="A"), "predictor.versions[0].model_format 'A' is not a valid"),
        (VersionSpec(model_version="2", options={"A": ""}), "predictor.versions[0].options key 'A' is not a valid"),
    ],
)
def test_a_wrong_version_is_named(version: VersionSpec, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_deployment(with_versions(version))

    assert sentence in caught.value.message


def test_there_are_not_too_many_versions() -> None:
    versions = [VersionSpec(model_version=str(number)) for number in range(2, 67)]

    with pytest.raises(InvalidInput, match=r"predictor\.versions has 65 entries; the limit is 64"):
        check_deployment(with_versions(*versions))


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("versions: 3", "predictor.versions must be a list, is a number"),
        ("versions: [3]", "predictor.versions[0] must be a mapping, is a number"),
        ("versions: [{model: 3}]", "predictor.versions[0].model is not a field; the fields are model_version"),
    ],
)
def test_a_list_of_versions_is_checked_as_it_is_read(tmp_path: Path, written: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read(tmp_path, f"deployments: [{{name: a, predictor: {{{written}}}}}]")

    assert sentence in caught.value.message


def test_traffic_is_read(tmp_path: Path) -> None:
    [deployment] = read(
        tmp_path,
        """
deployments:
  - name: iris
    predictor:
      {model_format: sklearn, storage_uri: "file:///m", versions: [{model_version: 2}, {model_version: 3}]}
    traffic:
      canary: {model_version: 2, percent: 10}
      rules: [{header: x-group, value: a, model_version: 3}, {tag: beta, model_version: 2}]
      sticky_header: x-session
      mirror: {model_version: 3, percent: 100}
      fallback: simple
""",
    )

    assert deployment.traffic == TrafficSpec(
        canary=Canary(model_version="2", percent=10),
        rules=[
            RouteRule(header="x-group", value="a", model_version="3"),
            RouteRule(tag="beta", model_version="2"),
        ],
        sticky_header="x-session",
        mirror=Mirror(model_version="3", percent=100),
        fallback="simple",
    )


@pytest.mark.parametrize("percent", ["ten", "1.5", "true", "[]", "99999999999"])
def test_percent_is_a_whole_number(tmp_path: Path, percent: str) -> None:
    predictor = "predictor: {model_format: x, storage_uri: 'file:///m', versions: [{model_version: 2}]}"
    traffic = f"traffic: {{canary: {{model_version: 2, percent: {percent}}}}}"

    with pytest.raises(InvalidInput, match=r"'a': traffic\.canary\.percent must be a whole number"):
        read(tmp_path, f"deployments: [{{name: a, {predictor}, {traffic}}}]")
