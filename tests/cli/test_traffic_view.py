"""Traffic as JSON: every field is there, whatever is set."""

from __future__ import annotations

from cli.traffic_view import describe_traffic
from mesh.v1.registry_pb2 import (
    Canary,
    Deployment,
    MeshSnapshot,
    Mirror,
    PredictorSpec,
    RouteRule,
    TrafficSpec,
    VersionSpec,
)


def test_a_deployment_without_traffic() -> None:
    deployment = Deployment(name="iris", generation=4, predictor=PredictorSpec(model_version="1"))

    assert describe_traffic(deployment, MeshSnapshot()) == {
        "name": "iris",
        "generation": 4,
        "versions": [
            {"version": "1", "role": "deployed", "percent": 100, "mirror_percent": 0, "ready_replicas": 0},
        ],
        "rules": [],
        "sticky_header": None,
        "fallback": None,
        "previous_version": None,
    }


def test_a_deployment_with_everything() -> None:
    versions = [VersionSpec(model_version=one) for one in "234"]
    traffic = TrafficSpec(
        canary=Canary(model_version="2", percent=25),
        rules=[RouteRule(header="x-a", value="b", model_version="2"), RouteRule(tag="t", model_version="3")],
        sticky_header="x-s",
        mirror=Mirror(model_version="3", percent=50),
        fallback="other",
        previous_version="4",
    )
    deployment = Deployment(name="iris", predictor=PredictorSpec(model_version="1", versions=versions), traffic=traffic)

    described = describe_traffic(deployment, MeshSnapshot())

    assert [(one["version"], one["role"], one["percent"], one["mirror_percent"]) for one in described["versions"]] == [
        ("1", "deployed", 75, 0),
        ("2", "canary", 25, 0),
        ("3", "mirror", 0, 50),
        ("4", "previous", 0, 0),
    ]
    assert described["rules"] == [
        {"header": "x-a", "value": "b", "tag": "", "version": "2"},
        {"header": "", "value": "", "tag": "t", "version": "3"},
    ]
    assert (described["sticky_header"], described["fallback"], described["previous_version"]) == ("x-s", "other", "4")
