"""What each verb of a rollout makes of a deployment, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.failure import Failure
from cli.rollout import (
    check_ready,
    cleared,
    promoted,
    ready_replicas,
    rolled_back,
    with_canary,
    with_mirror,
    with_rules,
    with_settings,
)
from mesh.deployments import check_deployment, versions_of
from mesh.v1.registry_pb2 import (
    Canary,
    Deployment,
    MeshSnapshot,
    Mirror,
    PredictorSpec,
    Replica,
    RouteRule,
    ServedModel,
    TrafficSpec,
    VersionSpec,
)


def iris(traffic: TrafficSpec | None = None, others: str = "23") -> Deployment:
    predictor = PredictorSpec(
        model_format="sklearn",
        storage_uri="file:///1",
        sha256="1" * 64,
        model_version="1",
        options={"threads": "1"},
        versions=[
            VersionSpec(model_version=one, storage_uri=f"file:///{one}", model_format="onnx", options={"threads": one})
            for one in others
        ],
    )
    return check_deployment(Deployment(name="iris", generation=5, predictor=predictor, traffic=traffic))


def artifacts(deployment: Deployment) -> dict[str, tuple[str, str, str, str]]:
    """What each version is, wherever it stands."""
    predictor = deployment.predictor
    return {
        one.model_version: (one.storage_uri, one.sha256, one.model_format, one.options["threads"])
        for one in (predictor, *predictor.versions)
    }


def test_promotion_swaps_versions_and_ends_the_canary() -> None:
    traffic = TrafficSpec(
        canary=Canary(model_version="2", percent=30),
        rules=[RouteRule(tag="old", model_version="1")],
        mirror=Mirror(model_version="2", percent=10),
        sticky_header="x-session",
        fallback="simple",
    )

    changed = promoted(iris(traffic))

    assert versions_of(changed) == ["2", "1", "3"]
    assert artifacts(changed) == artifacts(iris())
    assert changed.traffic == TrafficSpec(
        rules=traffic.rules, sticky_header="x-session", fallback="simple", previous_version="1"
    )
    assert changed.generation == 5
    assert check_deployment(changed) == changed


@given(st.lists(st.sampled_from(["promote 2", "promote 3", "canary", "rollback", "clear", "mirror"]), max_size=12))
def test_no_verb_loses_a_version_or_makes_what_the_registry_refuses(verbs: list[str]) -> None:
    deployment = before = iris()
    for verb in verbs:
        try:
            match verb:
                case "canary":
                    other = versions_of(deployment)[1]
                    deployment = with_canary(deployment, other, 10)
                case "mirror":
                    deployment = with_mirror(deployment, "3", 100)
                case "rollback":
                    deployment = rolled_back(deployment)
                case "clear":
                    deployment = cleared(deployment)
                case promotion:
                    deployment = promoted(deployment, promotion.split()[1])
        except Failure:
            pass
        assert check_deployment(deployment) == deployment
        assert artifacts(deployment) == artifacts(before)


def test_rollback_takes_the_canary_away_first_and_then_the_promotion_back() -> None:
    once = with_canary(promoted(iris(), "2"), "3", 10)

    without_canary = rolled_back(once)
    back = rolled_back(without_canary)

    assert versions_of(without_canary) == ["2", "1", "3"]
    assert not without_canary.traffic.HasField("canary")
    assert back == iris()
    with pytest.raises(Failure, match="'iris' has neither a canary nor a version before this one"):
        rolled_back(back)


@pytest.mark.parametrize(
    ("version", "sentence"),
    [
        ("", "'iris' has no canary; name the version to promote with --model-version"),
        ("1", "version 1 of 'iris' is the deployed one already"),
        ("9", "'iris' has no version 9; it has 1, 2, 3"),
    ],
)
def test_promotion_of_nothing_is_refused(version: str, sentence: str) -> None:
    with pytest.raises(Failure, match=sentence):
        promoted(iris(), version)


def test_settings_are_set_and_taken_away() -> None:
    rules = [RouteRule(header="x-a", model_version="2")]
    full = with_settings(with_rules(iris(), rules), sticky_header="x-s", fallback="simple")

    assert full.traffic == TrafficSpec(rules=rules, sticky_header="x-s", fallback="simple")
    assert with_settings(full, sticky_header=None, fallback="").traffic == TrafficSpec(rules=rules, sticky_header="x-s")
    assert not cleared(with_settings(full, sticky_header="", fallback="")).HasField("traffic")
    assert not iris().HasField("traffic"), "what was given is never changed"


def test_ready_replicas_are_counted_by_version() -> None:
    def replica(*models: tuple[str, str, bool]) -> Replica:
        return Replica(models=[ServedModel(name=n, version=v, ready=r) for n, v, r in models])

    snapshot = MeshSnapshot(
        replicas=[
            replica(("iris", "1", True), ("iris", "2", True), ("other", "3", True)),
            replica(("iris", "1", True), ("iris", "3", False), ("iris", "8", True)),
        ]
    )

    assert ready_replicas(snapshot, iris()) == {"1": 2, "2": 1, "3": 0}
    check_ready(snapshot, promoted(iris(), "2"))
    with pytest.raises(Failure, match="no replica has version 3 of 'iris' ready"):
        check_ready(snapshot, promoted(iris(), "3"))
