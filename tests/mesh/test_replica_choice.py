"""Which replica a call goes to, over real servers."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from mesh import context
from mesh.balancing import ANY, Request
from mesh.endpoints import EndpointSet, Target
from mesh.errors import ModelNotReady, Unavailable
from mesh.multiplex.channel import open_multiplexed
from mesh.pool import EndpointPool
from mesh.pool_metrics import PoolMetrics
from mesh.replica_choice import Attempts, ReplicaChoice
from mesh.testing import eventually
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, Replica, ServedModel
from tests.mesh.pool_rig import (
    PREDICTOR,
    Answering,
    Source,
    free_port_address,
    live,
    pool_over,
    predictor,
    serving,
    view_of,
)


async def test_no_replica_is_unavailable_with_a_sentence() -> None:
    async with pool_over(Source()) as pool:
        with pytest.raises(Unavailable, match="no ready predictor for 'iris'; 0 known"):
            await pool.unary(PREDICTOR, "iris", live)


async def test_loading_model_is_not_ready() -> None:
    async with pool_over(Source(predictor("a", "127.0.0.1:1", ready=False))) as pool:
        with pytest.raises(ModelNotReady, match="'iris' is not ready"):
            await pool.unary(PREDICTOR, "iris", live)


async def test_explainers_serve_every_deployment() -> None:
    servicer = Answering()
    async with serving(servicer) as [address]:
        source = Source(Replica(id="e", kind=SERVICE_KIND_EXPLAINER, address=address))
        async with pool_over(source) as pool:
            assert (await pool.unary(SERVICE_KIND_EXPLAINER, "iris", live)).live


async def test_refused_connection_goes_to_another_replica_and_ejects_the_first() -> None:
    servicer = Answering()
    metrics = CollectorRegistry()
    async with serving(servicer) as [address]:
        source = Source(predictor("dead", free_port_address()), predictor("alive", address))
        async with pool_over(source, metrics_registry=metrics) as pool:
            for _ in range(50):
                assert (await pool.unary(PREDICTOR, "iris", live)).live

    assert servicer.calls == 50
    ok = metrics.get_sample_value("meshserve_next_hop_attempts_total", {"service": "predictor", "outcome": "ok"})
    assert ok == 50
    for counted in ("retries", "ejections"):
        assert metrics.get_sample_value(f"meshserve_next_hop_{counted}_total", {"service": "predictor"}) == 1


async def test_burst_spreads_before_the_first_answer() -> None:
    servicers = Answering(), Answering(), Answering()
    gate = asyncio.Event()
    for servicer in servicers:
        servicer.held = gate
    async with serving(*servicers) as addresses, pool_over(Source(*(predictor(a, a) for a in addresses))) as pool:
        calls = [asyncio.create_task(pool.unary(PREDICTOR, "iris", live)) for _ in range(30)]
        await eventually(lambda: sum(servicer.calls for servicer in servicers) == 30)
        gate.set()
        await asyncio.gather(*calls)

    assert max(servicer.calls for servicer in servicers) <= 13


async def test_a_version_goes_to_a_replica_that_has_it_and_an_unknown_one_to_any() -> None:
    old, new = Answering("old"), Answering("new")
    async with serving(old, new) as [first, second]:
        replicas = [
            Replica(
                id=name, kind=PREDICTOR, address=address, models=[ServedModel(name="iris", version=name, ready=True)]
            )
            for name, address in (("1", first), ("2", second))
        ]
        async with pool_over(Source(*replicas)) as pool:
            for _ in range(10):
                await pool.unary(PREDICTOR, "iris", live, version="2")
            assert (old.calls, new.calls) == (0, 10)

            assert (await pool.unary(PREDICTOR, "iris", live, version="9")).live


async def test_prompts_of_one_prefix_go_to_one_replica_and_not_back_to_one_that_left_between() -> None:
    servicers = Answering(), Answering()
    async with serving(*servicers) as addresses:
        source = Source(*(predictor(f"r{number}", address) for number, address in enumerate(addresses)))
        everybody = source.view
        async with pool_over(source) as pool:
            for prefix in ([number, number + 1] for number in range(10)):
                home = (await _asked_for(pool, prefix, servicers, times=5)).pop()
                source.view = view_of(predictor(f"r{1 - home}", addresses[1 - home]))
                assert await _asked_for(pool, prefix, servicers) == {1 - home}
                source.view = everybody
                assert await _asked_for(pool, prefix, servicers, times=5) == {1 - home}


async def test_requests_of_one_session_go_to_one_replica_where_the_policy_looks_at_keys() -> None:
    servicers = [Answering() for _ in range(4)]
    async with serving(*servicers) as addresses:
        source = Source(*(predictor(f"r{number}", address) for number, address in enumerate(addresses)))
        async with pool_over(source, policy="consistent_hash") as pool:
            homes = set()
            for session in map(str, range(12)):
                before = [servicer.calls for servicer in servicers]
                with context.bind(context.RequestContext("r", session=session)):
                    for _ in range(5):
                        await pool.unary(PREDICTOR, "iris", live)
                asked = [one.calls - then for one, then in zip(servicers, before, strict=True)]
                assert sorted(asked) == [0, 0, 0, 5]
                homes.add(asked.index(5))
            assert len(homes) > 1


async def test_a_key_of_the_requests_own_comes_before_its_session() -> None:
    endpoints = EndpointSet(Source(), open_multiplexed)
    choice = ReplicaChoice(endpoints, PoolMetrics(CollectorRegistry()), policy="round_robin")
    target = Target(PREDICTOR, "iris")
    with context.bind(context.RequestContext("r", session="s")):
        keys = [choice.begin(target, request).request.key for request in (ANY, Request(key="own"))]

    assert keys == ["s", "own"]


async def _asked_for(
    pool: EndpointPool, prefix: list[int], servicers: tuple[Answering, ...], times: int = 1
) -> set[int]:
    """Which servicers got requests of the prefix."""
    before = [servicer.calls for servicer in servicers]
    for _ in range(times):
        await pool.unary(PREDICTOR, "iris", live, request=Request(prefix))
    return {number for number, servicer in enumerate(servicers) if servicer.calls > before[number]}


FATES = st.lists(
    st.one_of(
        st.tuples(st.just("fails"), st.integers(0, 6)),
        st.tuples(st.just("answers"), st.integers(0, 6)),
        st.tuples(st.just("time"), st.integers(1, 40)),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(num_replicas=st.integers(1, 7), fates=FATES)
def test_failing_replicas_are_kept_out_and_never_more_than_half(
    num_replicas: int, fates: list[tuple[str, int]]
) -> None:
    asyncio.run(_keep_out(num_replicas, fates))


async def _keep_out(num_replicas: int, fates: list[tuple[str, int]]) -> None:
    clock = [1000.0]
    view = view_of(*(predictor(f"r{number}", f"r{number}:1") for number in range(num_replicas)))
    no_channel: Any = None
    endpoints = EndpointSet(lambda: view, lambda _address: no_channel)
    metrics = PoolMetrics(CollectorRegistry())
    choice = ReplicaChoice(endpoints, metrics, policy="round_robin", now=lambda: clock[0])
    target = Target(PREDICTOR, "iris")
    lost = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "Socket closed")
    for fate, number in fates:
        present = endpoints.serving(target)
        if fate == "time":
            clock[0] += number
        elif fate == "fails":
            choice.failed(choice.begin(target, ANY), present[number % num_replicas], lost)
        else:
            choice.succeeded(present[number % num_replicas])

        chosen = {(await choice.choose(choice.begin(target, ANY))).id for _ in range(num_replicas)}

        kept_out = {endpoint.id for endpoint in present if endpoint.outlier.ejected_until > clock[0]}
        assert len(chosen) >= num_replicas - num_replicas // 2
        if len(kept_out) <= num_replicas // 2:
            assert chosen == {endpoint.id for endpoint in present} - kept_out


@settings(deadline=None)
@given(fates=st.lists(st.sampled_from(["well", "drains", "fails", "fails and drains"]), min_size=1, max_size=7))
def test_one_that_drains_is_chosen_only_while_no_other_is_well(fates: list[str]) -> None:
    asyncio.run(_leave_out(fates))


async def _leave_out(fates: list[str]) -> None:
    view = view_of(*(predictor(f"r{number}", f"r{number}:1") for number in range(len(fates))))
    no_channel: Any = None
    endpoints = EndpointSet(lambda: view, lambda _address: no_channel)
    choice = ReplicaChoice(endpoints, PoolMetrics(CollectorRegistry()), policy="round_robin", now=lambda: 1000.0)
    target = Target(PREDICTOR, "iris")
    by_fate: dict[str, set[str]] = {}
    for endpoint, fate in zip(endpoints.serving(target), fates, strict=True):
        by_fate.setdefault(fate, set()).add(endpoint.id)
        if "drains" in fate:
            endpoints.draining.add(endpoint)
            endpoint.departing.set()
        if "fails" in fate:
            endpoint.outlier.failed(1000.0)

    firsts = {(await choice.choose(choice.begin(target, ANY))).id for _ in fates}
    attempts = choice.begin(target, ANY)
    first, *others = [(await choice.choose(attempts)).id for _ in fates]

    well, draining = by_fate.get("well", set()), by_fate.get("drains", set())
    if well:
        assert well <= firsts and not firsts & draining
    else:
        assert draining <= firsts
    # Attempts after the first: those that are well, then those that drain, then those that are known to fail.
    assert first not in draining or not well
    well, draining = well - {first}, draining - {first}
    assert set(others[: len(well)]) == well
    assert set(others[len(well) :][: len(draining)]) == draining
    assert len({first, *others}) == len(fates)
    for endpoint in endpoints.draining:
        assert choice.may_move(Attempts(target, ANY, tried=[endpoint])) == ("well" in fates)
