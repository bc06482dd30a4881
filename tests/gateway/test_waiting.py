"""Requests that wait in the gateway for a replica: in line, refused, out of time, or held until there is one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import yaml

from mesh.testing import eventually
from tests.gateway.conftest import open_door

WAITS = {"model": "chat", "prompt": "waits"}
INFER = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]}


async def test_a_busy_replica_s_requests_wait_within_their_time_and_no_more_than_may(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_in_flight_per_replica=1, max_queued=1) as door:
        running = asyncio.create_task(door.http.post("/v1/completions", json=WAITS))
        await door.model.started.wait()
        waits = door.http.post("/v1/completions", json=WAITS, headers={"x-request-timeout-s": "1.5"})
        waiting = asyncio.create_task(waits)
        metrics = door.gateway.server.metrics_registry
        depth = "meshserve_next_hop_queue_depth"
        await eventually(lambda: metrics.get_sample_value(depth, {"service": "predictor"}) == 1)

        refused = await door.http.post("/v1/completions", json=WAITS)
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["message"].startswith("1 requests wait for the predictor of 'chat' already")

        late = await waiting
        assert late.status_code == 504
        assert "ran out while it waited for a replica of 'chat'" in late.json()["error"]["message"]
        assert len(door.model.deadlines) == 1, "what waited in vain has not reached the replica"
        running.cancel()
        await door.model.cancelled.wait()


async def test_a_client_that_leaves_while_it_waits_leaves_the_line(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_in_flight_per_replica=1) as door:
        running = asyncio.create_task(door.http.post("/v1/completions", json=WAITS))
        await door.model.started.wait()
        waiting = asyncio.create_task(door.http.post("/v1/completions", json=WAITS))
        metrics, depth = door.gateway.server.metrics_registry, "meshserve_next_hop_queue_depth"
        await eventually(lambda: metrics.get_sample_value(depth, {"service": "predictor"}) == 1)

        waiting.cancel()

        await eventually(lambda: metrics.get_sample_value(depth, {"service": "predictor"}) == 0)
        running.cancel()
        await door.model.cancelled.wait()


async def test_a_deployment_without_a_replica_is_held_until_there_is_one(tmp_path: Path) -> None:
    async with open_door(tmp_path, hold_s=30) as door:
        held = asyncio.create_task(door.http.post("/v2/models/absent/infer", json=INFER))
        metrics, depth = door.gateway.server.metrics_registry, "meshserve_next_hop_queue_depth"
        await eventually(lambda: metrics.get_sample_value(depth, {"service": "predictor"}) == 1)
        endpoints = tmp_path / "endpoints.yaml"
        document = yaml.safe_load(endpoints.read_text())
        document["endpoints"]["predictor"][0]["models"].append("absent")
        endpoints.write_text(yaml.safe_dump(document))

        answer = await held

    assert "not ready" not in answer.text
    assert answer.status_code != 503


async def test_holding_ends_with_503_and_when_to_come_back(tmp_path: Path) -> None:
    async with open_door(tmp_path, hold_s=0.05) as door:
        answer = await door.http.post("/v2/models/absent/infer", json=INFER)

    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "no ready predictor for 'absent'" in answer.json()["error"]
