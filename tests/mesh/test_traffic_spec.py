"""What a deployment's traffic may say, and what each mistake is called."""

from __future__ import annotations

import pytest

from mesh.deployments import check_deployment
from mesh.errors import InvalidInput
from mesh.traffic_spec import MAX_RULES, check_traffic
from mesh.v1.registry_pb2 import Canary, Deployment, Mirror, PredictorSpec, RouteRule, TrafficSpec, VersionSpec

VERSIONS = ["1", "2", "3"]


def rule(**fields: str) -> TrafficSpec:
    return TrafficSpec(rules=[RouteRule(**{"model_version": "2", **fields})])


@pytest.mark.parametrize(
    "traffic",
    [
        TrafficSpec(),
        TrafficSpec(canary=Canary(model_version="2", percent=0)),
        TrafficSpec(canary=Canary(model_version="3", percent=100), mirror=Mirror(model_version="1", percent=1)),
        rule(header="x-user-group", value="Beta testers"),
        rule(header="x-debug"),
        rule(tag="beta"),
        TrafficSpec(sticky_header="x-session", fallback="other", previous_version="3"),
    ],
)
def test_traffic_that_is_right(traffic: TrafficSpec) -> None:
    check_traffic(traffic, "iris", VERSIONS)


@pytest.mark.parametrize(
    ("traffic", "sentence"),
    [
        (TrafficSpec(canary=Canary(percent=5)), "traffic.canary.model_version '' is no version of the deployment"),
        (TrafficSpec(canary=Canary(model_version="9")), "'9' is no version of the deployment; it has 1, 2, 3"),
        (TrafficSpec(canary=Canary(model_version="1", percent=5)), "'1' is the deployed version"),
        (TrafficSpec(canary=Canary(model_version="2", percent=101)), "traffic.canary.percent is 101; it must be"),
        (TrafficSpec(mirror=Mirror(model_version="2", percent=-1)), "traffic.mirror.percent is -1; it must be"),
        (TrafficSpec(mirror=Mirror(model_version="8", percent=1)), "traffic.mirror.model_version '8' is no version"),
        (rule(), r"traffic.rules\[0\] must name either a header or a tag"),
        (rule(header="x-a", tag="b"), "must name either a header or a tag"),
        (rule(header="X-Group"), r"traffic.rules\[0\].header 'X-Group' is no name of a header"),
        (rule(header="x-data-bin"), "is no name of a header"),
        (rule(header="x" * 129), "is no name of a header"),
        (rule(header="x-a", value="v" * 1025), "has 1025 characters; the limit is 1024"),
        (rule(tag="beta", value="v"), "value belongs to a header, and the rule has a tag"),
        (rule(tag="Beta"), "is not a valid name"),
        (rule(tag="beta", model_version="7"), r"traffic.rules\[0\].model_version '7' is no version"),
        (TrafficSpec(rules=[RouteRule(tag="a", model_version="1")] * (MAX_RULES + 1)), "has 65 rules; the limit is 64"),
        (TrafficSpec(sticky_header="a b"), "traffic.sticky_header 'a b' is no name of a header"),
        (TrafficSpec(fallback="iris"), "traffic.fallback is 'iris' itself"),
        (TrafficSpec(fallback="I"), "traffic.fallback 'I' is not a valid name"),
        (TrafficSpec(previous_version="4"), "traffic.previous_version '4' is no version"),
    ],
)
def test_mistakes_are_named(traffic: TrafficSpec, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        check_traffic(traffic, "iris", VERSIONS)


def test_it_is_part_of_the_check_of_a_deployment() -> None:
    predictor = PredictorSpec(
        model_format="x", storage_uri="file:///m", model_version="2", versions=[VersionSpec(model_version="1")]
    )
    deployment = Deployment(name="a", predictor=predictor, traffic=TrafficSpec(canary=Canary(model_version="1")))

    assert check_deployment(deployment).traffic == deployment.traffic
    deployment.traffic.canary.model_version = "3"
    with pytest.raises(InvalidInput, match="it has 2, 1"):
        check_deployment(deployment)
