"""Which version a request gets: right shares, sessions that stay, rules first, and the version that is named always."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traffic import Arm, Route, fallback_route, has_choice, route_of
from mesh.errors import InvalidInput
from mesh.traffic_spec import check_traffic
from mesh.v1.registry_pb2 import Canary, Deployment, Mirror, PredictorSpec, RouteRule, TrafficSpec, VersionSpec


def deployment(traffic: TrafficSpec | None = None, versions: str = "123", name: str = "iris") -> Deployment:
    deployed, *others = versions
    predictor = PredictorSpec(
        model_version=deployed, versions=[VersionSpec(model_version=version) for version in others]
    )
    return Deployment(name=name, predictor=predictor, traffic=traffic)


def canary(percent: int, **fields: str) -> TrafficSpec:
    return TrafficSpec(canary=Canary(model_version="2", percent=percent), **fields)


def choose(
    traffic: TrafficSpec,
    headers: dict[str, str] | None = None,
    *,
    version: str = "",
    draw: float = 0.5,
    served: str = "123",
) -> Route:
    return route_of(deployment(traffic), version, (headers or {}).get, lambda: draw, lambda one: one in served)


def test_one_version_without_traffic_leaves_nothing_to_decide() -> None:
    assert not has_choice(deployment(versions="1"))
    assert has_choice(deployment(versions="12"))
    assert has_choice(deployment(canary(10)))


def test_without_rules_the_deployed_version_is_named() -> None:
    route = choose(TrafficSpec())

    assert (route.version, route.arm, route.served_by) == ("1", Arm.STABLE, "iris/1")


@pytest.mark.parametrize("percent", [1, 10, 50, 90])
def test_share_of_the_canary_is_right(percent: int) -> None:
    rng = random.Random(7)
    count = 20_000

    chosen = [
        route_of(deployment(canary(percent)), "", {}.get, rng.random, lambda _: True).version for _ in range(count)
    ]

    expected = percent / 100
    # Five standard deviations of a binomial share.
    assert abs(chosen.count("2") / count - expected) < 5 * (expected * (1 - expected) / count) ** 0.5
    assert set(chosen) == {"1", "2"}


@pytest.mark.parametrize(("percent", "versions"), [(0, {"1"}), (100, {"2"})])
def test_none_and_all_are_meant_literally(percent: int, versions: set[str]) -> None:
    draws = [0.0, 0.001, 0.5, 0.999, 1 - 2**-53]

    assert {choose(canary(percent), draw=draw).version for draw in draws} == versions


@given(session=st.text(max_size=50), percents=st.lists(st.integers(0, 100), min_size=2, max_size=5))
def test_a_session_that_has_the_canary_keeps_it_while_the_percent_grows(session: str, percents: list[int]) -> None:
    arms = [
        choose(canary(percent, sticky_header="x-session"), {"x-session": session}, draw=0.99).arm
        for percent in sorted(percents)
    ]

    first = arms.index(Arm.CANARY) if Arm.CANARY in arms else len(arms)
    assert arms == [Arm.STABLE] * first + [Arm.CANARY] * (len(arms) - first)


@given(session=st.text(max_size=50), draws=st.lists(st.floats(0, 1, exclude_max=True), min_size=2, max_size=5))
def test_a_session_stays_whatever_chance_says(session: str, draws: list[float]) -> None:
    traffic = canary(50, sticky_header="x-session")

    assert len({choose(traffic, {"x-session": session}, draw=draw).version for draw in draws}) == 1


def test_sessions_have_the_share_and_are_divided_anew_for_another_canary() -> None:
    sessions = [f"user-{number}" for number in range(10_000)]

    def chosen(version: str) -> set[str]:
        traffic = TrafficSpec(canary=Canary(model_version=version, percent=20), sticky_header="x-session")
        return {one for one in sessions if choose(traffic, {"x-session": one}).arm is Arm.CANARY}

    second, third = chosen("2"), chosen("3")

    assert abs(len(second) - 2000) < 5 * (10_000 * 0.2 * 0.8) ** 0.5
    # Independent of each other: both get a twenty-fifth.
    assert abs(len(second & third) - 400) < 5 * (10_000 * 0.04 * 0.96) ** 0.5


def test_request_without_the_sticky_header_is_for_itself() -> None:
    traffic = canary(50, sticky_header="x-session")

    assert [choose(traffic, draw=draw).arm for draw in (0.1, 0.9)] == [Arm.CANARY, Arm.STABLE]


RULES = TrafficSpec(
    canary=Canary(model_version="2", percent=100),
    rules=[
        RouteRule(header="x-group", value="a", model_version="3"),
        RouteRule(tag="beta", model_version="2"),
        RouteRule(header="x-debug", model_version="1"),
    ],
)


@pytest.mark.parametrize(
    ("headers", "version", "arm"),
    [
        ({"x-group": "a"}, "3", Arm.RULE),
        ({"x-group": "A"}, "2", Arm.CANARY),
        ({"x-meshserve-tag": "beta"}, "2", Arm.RULE),
        ({"x-debug": ""}, "1", Arm.RULE),
        ({"x-debug": "yes", "x-group": "a"}, "3", Arm.RULE),
        ({}, "2", Arm.CANARY),
    ],
)
def test_the_first_rule_that_matches_wins_over_the_canary(headers: dict[str, str], version: str, arm: Arm) -> None:
    route = choose(RULES, headers)

    assert (route.version, route.arm) == (version, arm)


@given(
    version=st.sampled_from(["1", "2", "3", "9"]),
    percent=st.integers(0, 100),
    headers=st.dictionaries(st.sampled_from(["x-group", "x-meshserve-tag", "x-session"]), st.sampled_from("ab")),
)
def test_named_version_wins_over_everything(version: str, percent: int, headers: dict[str, str]) -> None:
    traffic = TrafficSpec()
    traffic.CopyFrom(RULES)
    traffic.canary.percent = percent
    traffic.mirror.CopyFrom(Mirror(model_version="3", percent=100))

    route = choose(traffic, headers, version=version)

    assert (route.version, route.arm, route.mirror) == (version, Arm.NAMED, "")


NAMES = st.sampled_from(["", "x-group", "x-session", "X-Bad", "x-data-bin"])
VERSIONS = st.sampled_from(["", "1", "2", "3", "9"])
SPECS = st.builds(
    TrafficSpec,
    canary=st.none() | st.builds(Canary, model_version=VERSIONS, percent=st.integers(-1, 101)),
    mirror=st.none() | st.builds(Mirror, model_version=VERSIONS, percent=st.integers(-1, 101)),
    rules=st.lists(
        st.builds(
            RouteRule,
            header=NAMES,
            tag=st.sampled_from(["", "", "beta", "Bad"]),
            value=st.sampled_from("ab") | st.just(""),
            model_version=VERSIONS,
        ),
        max_size=3,
    ),
    sticky_header=NAMES,
)


@given(
    traffic=SPECS,
    headers=st.dictionaries(
        st.sampled_from(["x-group", "x-session", "x-meshserve-tag"]), st.sampled_from(["a", "beta"])
    ),
    draw=st.floats(0, 1, exclude_max=True),
    served=st.sampled_from(["", "1", "12", "23", "123"]),
)
def test_what_may_be_applied_leads_to_a_version_of_the_deployment(
    traffic: TrafficSpec, headers: dict[str, str], draw: float, served: str
) -> None:
    try:
        check_traffic(traffic, "iris", ["1", "2", "3"])
    except InvalidInput:
        return

    route = choose(traffic, headers, draw=draw, served=served)

    assert route.version == "1" or route.version in served
    assert route.version in "123"
    assert route.mirror != route.version


def test_version_that_nobody_has_ready_gets_nothing() -> None:
    assert choose(canary(100), served="1").arm is Arm.STABLE
    assert choose(RULES, {"x-group": "a"}, served="12").version == "1"
    assert choose(canary(0), served="").version == "1", "somebody must say what is wrong"


def test_mirror_copies_its_share_and_never_what_went_there() -> None:
    traffic = TrafficSpec(mirror=Mirror(model_version="2", percent=30))

    assert [choose(traffic, draw=draw).mirror for draw in (0.29, 0.31)] == ["2", ""]
    traffic.canary.CopyFrom(Canary(model_version="2", percent=100))
    traffic.mirror.percent = 100
    assert choose(traffic, draw=0.1).mirror == ""


def test_fallback_gets_its_deployed_version_under_the_asked_name() -> None:
    route = choose(canary(100))

    assert fallback_route(route, deployment(versions="1", name="simple")).served_by == "simple"
    taken = fallback_route(route, deployment(canary(100), versions="72", name="other"))
    assert (taken.served_by, taken.arm, taken.asked_name, taken.mirror) == ("other/7", Arm.FALLBACK, "iris", "")
