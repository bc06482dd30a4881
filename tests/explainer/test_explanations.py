"""What holds for every explanation: names, methods, deadline, cancel, how many at a time."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from explainer.predict_fn import BatchLimits
from mesh.testing import eventually
from mesh.v1 import explain_pb2


def request(text: str = "What is the capital of France?", **fields: object) -> explain_pb2.ExplainRequest:
    fields = {"model_name": "llm", **fields}
    return explain_pb2.ExplainRequest(text=explain_pb2.TextSubject(text=text, target="Paris"), **fields)


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_the_deployments_method_is_the_default(rig: Any) -> None:
    rig.deployments["llm"].explainer.method = "shapley"

    assert (await rig.stub.Explain(request("the capital"))).method == "shapley"


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        (
            {"model_name": "ghost"},
            grpc.StatusCode.NOT_FOUND,
            "model 'ghost' is not deployed; deployed: bare, llm, table",
        ),
        ({"model_name": "bare"}, grpc.StatusCode.NOT_FOUND, "deployment 'bare' has no explainer"),
        (
            {"method": "magic"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "unknown method 'magic'; known are: leave_one_out, shapley",
        ),
    ],
)
async def test_unknown_names(rig: Any, fields: dict[str, str], code: grpc.StatusCode, sentence: str) -> None:
    error = await failure(rig.stub.Explain(request(**fields)))

    assert (error.code(), error.details()) == (code, sentence)


async def test_a_request_without_a_subject_is_named(rig: Any) -> None:
    error = await failure(rig.stub.Explain(explain_pb2.ExplainRequest(model_name="llm")))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no subject" in (error.details() or "")


async def test_an_absent_predictor_is_unavailable(rig: Any) -> None:
    rig.replicas.clear()

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "no ready predictor for 'llm'" in (error.details() or "")


async def test_the_deadline_travels_to_the_predictor(rig: Any) -> None:
    rig.predictor.hangs = True

    error = await failure(rig.stub.Explain(request(), timeout=0.3))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(rig.predictor.was_cancelled.wait(), 5)


async def test_a_cancelled_explanation_stops_the_call_to_the_predictor(rig: Any) -> None:
    rig.predictor.hangs = True
    call = rig.stub.Explain(request())
    waiting = asyncio.ensure_future(call)
    await asyncio.wait_for(rig.predictor.scoring.wait(), 5)

    call.cancel()

    await asyncio.wait_for(rig.predictor.was_cancelled.wait(), 5)
    await asyncio.gather(waiting, return_exceptions=True)
    assert len(rig.predictor.score_requests) == 1


async def test_more_explanations_than_allowed_are_refused_at_once(rig: Any) -> None:
    rig.predictor.hangs = True
    running = [asyncio.ensure_future(rig.stub.Explain(request())) for _ in range(2)]
    await eventually(lambda: len(rig.predictor.score_requests) == 2)

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "2 explanations are being made" in (error.details() or "")
    for call in running:
        call.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("limits", [BatchLimits(timeout_s=0.2)])
async def test_without_a_deadline_the_default_holds_for_all_calls_together(rig: Any) -> None:
    rig.predictor.hangs = True

    error = await failure(rig.stub.Explain(request()))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.details() == "the explanation was not ready within 0.2 s, after 1 predictor calls"
    labels = {"model_name": "llm", "method": "leave_one_out"}
    assert rig.metrics.get_sample_value("meshserve_explainer_predictor_calls_total", labels) == 1
    assert rig.metrics.get_sample_value("meshserve_explainer_running") == 0
