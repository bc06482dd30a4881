"""Endpoints follow the view: a channel is closed once its replica has left and its last call has ended."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.endpoints import STALE_S, Endpoint, EndpointSet, Target
from mesh.load_report import LoadReport
from mesh.multiplex.channel import MultiplexedChannel, open_multiplexed
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, SERVICE_KIND_PREDICTOR, Replica, ServedModel
from mesh.view import MeshView


class Channel:
    """The part of a channel that an EndpointSet uses."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.num_closed = 0

    async def close(self) -> None:
        self.num_closed += 1


def predictor(id_: str, address: str = "") -> Replica:
    models = [ServedModel(name="iris", version="1", ready=True)]
    return Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address=address or f"{id_}:1", models=models)


def view_of(*ids: str) -> MeshView:
    return MeshView(replicas={id_: predictor(id_) for id_ in ids})


IDS = ["r1", "r2", "r3", "r4"]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("view"), st.sets(st.sampled_from(IDS))),
        st.tuples(st.just("dispatch"), st.integers(0, 3)),
        st.tuples(st.just("release"), st.integers(0, 50)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps=STEPS)
def test_in_flight_and_channels_are_accounted_for(steps: list[tuple[str, Any]]) -> None:
    asyncio.run(_account(steps))


async def _account(steps: list[tuple[str, Any]]) -> None:
    channels: list[Channel] = []
    current = [view_of()]

    def open_channel(address: str) -> Any:
        channels.append(Channel(address))
        return channels[-1]

    endpoints = EndpointSet(lambda: current[0], open_channel)
    running: list[tuple[Endpoint, ExitStack]] = []
    for kind, value in steps:
        if kind == "view":
            current[0] = view_of(*value)
        elif kind == "dispatch" and (candidates := endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))):
            endpoint = candidates[value % len(candidates)]
            stack = ExitStack()
            stack.enter_context(endpoints.dispatched(endpoint, 1.0))
            running.append((endpoint, stack))
        elif kind == "release" and running:
            running.pop(value % len(running))[1].close()

        present = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))
        await asyncio.sleep(0)
        assert {endpoint.id for endpoint in present} == set(current[0].replicas)
        for endpoint in {*present, *(endpoint for endpoint, _ in running)}:
            assert endpoint.in_flight == sum(other is endpoint for other, _ in running)
        in_use = {id(endpoint.channel) for endpoint in {*present, *(endpoint for endpoint, _ in running)}}
        assert {id(channel) for channel in channels if channel.num_closed == 0} == in_use

    for _, stack in running:
        stack.close()
    await endpoints.close()
    assert all(channel.num_closed == 1 for channel in channels)


async def test_same_id_at_another_address_is_another_endpoint() -> None:
    current = [MeshView(replicas={"r1": predictor("r1", "h:1")})]
    endpoints = EndpointSet(lambda: current[0], lambda address: Channel(address))  # type: ignore[arg-type, return-value]
    [first] = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))
    current[0] = MeshView(replicas={"r1": predictor("r1", "h:2")})
    [second] = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))

    assert first is not second
    assert first.has_left and first.departing.is_set()


async def test_those_that_owe_a_sign_of_life_are_left_out_unless_all_do() -> None:
    view = MeshView(replicas={id_: predictor(id_, "127.0.0.1:1") for id_ in IDS[:2]})
    current = [view]
    channels: list[MultiplexedChannel] = []

    def open_channel(address: str) -> MultiplexedChannel:
        channels.append(open_multiplexed(address))
        return channels[-1]

    endpoints = EndpointSet(lambda: current[0], open_channel)
    both = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))

    assert endpoints.responsive(both) == both
    channels[0].peer.suspect(True)
    assert endpoints.responsive(both) == both[1:]
    channels[1].peer.suspect(True)
    assert endpoints.responsive(both) == both
    channels[0].peer.suspect(False)
    assert endpoints.responsive(both) == both[:1]
    await endpoints.close()


async def test_one_that_drains_departs_until_it_says_otherwise_unless_the_view_lost_it() -> None:
    current = [MeshView(replicas={"r1": predictor("r1", "127.0.0.1:1")})]
    endpoints = EndpointSet(lambda: current[0], open_multiplexed)
    [endpoint] = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))
    assert isinstance(endpoint.channel, MultiplexedChannel)
    seen = []
    for is_draining in (True, False):
        endpoint.channel.peer.drain(is_draining)
        seen.append((endpoint in endpoints.draining, endpoint.departing.is_set()))
    endpoint.channel.peer.drain(True)
    current[0] = MeshView()
    endpoints.follow_view()
    endpoint.channel.peer.drain(False)

    assert seen == [(True, True), (False, False)]
    assert not endpoints.draining and endpoint.departing.is_set()
    await endpoints.close()


async def test_what_a_replica_says_of_its_load_reaches_its_endpoint_and_ages_there() -> None:
    clock = [100.0]
    view = MeshView(replicas={"r1": predictor("r1", "127.0.0.1:1")})
    endpoints = EndpointSet(lambda: view, open_multiplexed, now=lambda: clock[0])
    [endpoint] = endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))
    assert isinstance(endpoint.channel, MultiplexedChannel)

    endpoint.channel.peer.report(LoadReport(work=7.0))
    endpoint.channel.peer.report(None)
    assert endpoint.load == 7.0
    clock[0] += STALE_S
    endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))
    assert endpoint.load == 0.0
    await endpoints.close()


async def test_only_predictors_must_hold_the_model() -> None:
    replicas = {"r1": predictor("r1"), "e1": Replica(id="e1", kind=SERVICE_KIND_EXPLAINER, address="e:1")}
    endpoints = EndpointSet(lambda: view, lambda address: Channel(address))  # type: ignore[arg-type, return-value]
    view = MeshView(replicas=replicas)

    assert [end.id for end in endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "iris"))] == ["r1"]
    assert endpoints.serving(Target(SERVICE_KIND_PREDICTOR, "other")) == []
    assert [end.id for end in endpoints.serving(Target(SERVICE_KIND_EXPLAINER, "other"))] == ["e1"]
