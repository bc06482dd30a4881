"""Mirrors through a whole gateway: compared and recorded, never returned, and never in a client's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mesh.errors import InvalidInput, Unavailable
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.testing import eventually
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from mesh.v1.registry_pb2 import Mirror, TrafficSpec
from tests.gateway.test_dispatch import V2_INPUT, by_grpc_infer, by_openai, by_v1, by_v2, infer_request
from tests.gateway.traffic_rig import TrafficMesh, VersionedPredictor, deployment, traffic_mesh

ALL = TrafficSpec(mirror=Mirror(model_version="2", percent=100))


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[TrafficMesh]:
    async with traffic_mesh(tmp_path, mirror_max_queued=4, mirror_concurrency=2) as running:
        await running.apply(deployment("iris", "12", ALL), deployment("chat", "12", ALL, model_format="llm"))
        yield running


def count(mesh: TrafficMesh, outcome: str, name: str = "iris") -> float:
    value = mesh.gateway.server.metrics_registry.get_sample_value(
        "meshserve_mirrored_requests_total", {"deployment": name, "outcome": outcome}
    )
    return value or 0.0


async def test_answers_are_compared_and_recorded_and_not_returned(mesh: TrafficMesh) -> None:
    predictor = VersionedPredictor(("1", "2"), outputs={"1": [1.0, 2.0], "2": [1.0, 2.5]})
    await mesh.serve(predictor, "iris")

    answer = await mesh.http.post("/v2/models/iris/infer", json=V2_INPUT)
    [mirrored] = await mesh.lines("mirrors.jsonl", 1)
    [record] = await mesh.lines("predictions.jsonl", 1)

    assert answer.json()["model_version"] == "1"
    assert mirrored.pop("seconds") > 0
    assert mirrored.pop("time")
    assert mirrored == {
        "request_id": record["request_id"],
        "deployment": "iris",
        "method": "/inference.GRPCInferenceService/ModelInfer",
        "served_by": "iris/1",
        "mirror": "iris/2",
        "outcome": "different",
        "error": None,
        "outputs": [{"name": "version", "is_equal": False, "share_equal": 0.5, "max_abs_difference": 0.5}],
    }
    await eventually(lambda: count(mesh, "different") == 1)
    assert predictor.asked == [("iris", "1"), ("iris", "2")]
    assert predictor.priorities == [0, -100], "where requests queue, copies come last"


async def test_every_front_is_mirrored(mesh: TrafficMesh) -> None:
    predictor = VersionedPredictor(("1", "2"), outputs={"1": [3.0], "2": [3.0]})
    await mesh.serve(predictor, "iris", "chat")

    assert await by_grpc_infer(mesh, {}) == await by_v2(mesh, {}) == "1"
    assert await by_v1(mesh, {}) == "3"
    await eventually(lambda: count(mesh, "equal") == 3)
    assert await by_openai(mesh, {}) == "1"
    call = LanguageModelStub(mesh.channel).Generate(lm.GenerateRequest(model_name="chat", text="say"), timeout=20)
    assert "".join([message.text async for message in call]) == "version 1"
    await eventually(lambda: count(mesh, "different", "chat") == 2)

    of_texts = [line for line in await mesh.lines("mirrors.jsonl", 5) if line["deployment"] == "chat"]
    assert [line["outputs"][0]["first_difference"] for line in of_texts] == [1, 1]
    assert [line["outputs"][0]["text"] for line in of_texts] == ["version 2"] * 2


async def test_copy_of_a_generation_has_low_priority_and_the_seed_of_the_first(mesh: TrafficMesh) -> None:
    predictor = VersionedPredictor(("1", "2"))
    await mesh.serve(predictor, "chat")

    await by_openai(mesh, {})
    await eventually(lambda: len(predictor.generate_requests) == 2)

    first, copy = predictor.generate_requests
    assert (first.priority, first.sampling.HasField("seed")) == (0, False)
    assert (copy.model_version, copy.priority, copy.sampling.seed) == ("2", -10, 7)
    copy.ClearField("priority")
    copy.sampling.ClearField("seed")
    copy.model_version = first.model_version
    assert copy == first


async def test_what_went_to_the_mirror_or_named_a_version_is_not_copied(mesh: TrafficMesh) -> None:
    predictor = VersionedPredictor(("1", "2"))
    await mesh.serve(predictor, "iris")

    for version in ("1", "2"):
        await GRPCInferenceServiceStub(mesh.channel).ModelInfer(infer_request(model_version=version), timeout=20)
    await by_v2(mesh, {})
    await eventually(lambda: count(mesh, "different") == 1)

    assert predictor.asked == [("iris", "1"), ("iris", "2"), ("iris", "1"), ("iris", "2")]


async def test_mirror_that_hangs_delays_nobody_and_what_has_no_room_is_dropped(mesh: TrafficMesh) -> None:
    gate = asyncio.Event()
    predictor = VersionedPredictor(("1", "2"), gates={"2": gate})
    await mesh.serve(predictor, "iris")

    versions = [await by_grpc_infer(mesh, {}) for _ in range(30)]

    assert versions == ["1"] * 30
    # Two hang at the mirror, four wait for them.
    assert count(mesh, "dropped") == 24
    gate.set()
    await eventually(lambda: count(mesh, "different") == 6)


@pytest.mark.parametrize("error", [Unavailable("out of memory"), InvalidInput("no such input")])
async def test_mirror_that_fails_fails_nobody(mesh: TrafficMesh, error: Unavailable | InvalidInput) -> None:
    await mesh.serve(VersionedPredictor(("1", "2"), failures={"2": error}), "iris")

    assert [await by_grpc_infer(mesh, {}) for _ in range(5)] == ["1"] * 5
    await eventually(lambda: count(mesh, "failed") + count(mesh, "dropped") == 5)

    lines = await mesh.lines("mirrors.jsonl", 1)
    assert (lines[0]["outcome"], lines[0]["error"]) == ("failed", error.message)


async def test_mirror_that_takes_too_long_has_failed(tmp_path: Path) -> None:
    async with traffic_mesh(tmp_path, mirror_timeout_s=0.1) as mesh:
        await mesh.apply(deployment("iris", "12", ALL))
        await mesh.serve(VersionedPredictor(("1", "2"), gates={"2": asyncio.Event()}), "iris")

        assert await by_v2(mesh, {}) == "1"
        await eventually(lambda: count(mesh, "failed") == 1)


async def test_mirror_that_nobody_serves_fails(mesh: TrafficMesh) -> None:
    await mesh.serve(VersionedPredictor(("1",)), "iris")

    assert await by_v2(mesh, {}) == "1"

    await eventually(lambda: count(mesh, "failed") == 1)


async def test_answer_that_is_too_large_to_keep_is_dropped(tmp_path: Path) -> None:
    async with traffic_mesh(tmp_path, mirror_max_queued_bytes=1024) as mesh:
        await mesh.apply(deployment("iris", "12", ALL))
        await mesh.serve(VersionedPredictor(("1", "2"), outputs={"1": [0.0] * 200}), "iris")

        assert await by_v2(mesh, {}) == "1"
        assert count(mesh, "dropped") == 1


async def test_without_a_prediction_log_only_the_metric_tells(tmp_path: Path) -> None:
    async with traffic_mesh(tmp_path, prediction_log=False) as mesh:
        await mesh.apply(deployment("iris", "12", ALL))
        await mesh.serve(VersionedPredictor(("1", "2")), "iris")

        await by_v2(mesh, {})
        await eventually(lambda: count(mesh, "different") == 1)

        assert not (mesh.state_dir / "mirrors.jsonl").exists()
