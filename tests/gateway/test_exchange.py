"""An exchange collects what happened; the recorder finishes it whatever happens."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from gateway.exchange import MAX_CALLS, Exchange, Recorder
from mesh import context
from mesh.errors import ModelNotFound
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import language_model_pb2 as lm


def recorder(finished: list[Exchange], max_payload_bytes: int = 1000) -> Recorder:
    ticks = itertools.count(10.0)
    return Recorder(
        [finished.append], max_payload_bytes=max_payload_bytes, clock=lambda: next(ticks), wall_clock=lambda: 1.5
    )


def test_exchange_has_the_requests_id_and_its_duration() -> None:
    finished: list[Exchange] = []

    with (
        context.bind(context.RequestContext("r-1")),
        recorder(finished).exchange("grpc", "/a.B/C") as exchange,
    ):
        exchange.deployment = "chat"

    (done,) = finished
    assert (done.request_id, done.started_at, done.total_s, done.code, done.status) == ("r-1", 1.5, 1.0, "OK", "OK")


def test_error_is_noted_and_goes_on() -> None:
    finished: list[Exchange] = []

    with pytest.raises(ModelNotFound), recorder(finished).exchange("grpc", "/a.B/C"):
        raise ModelNotFound("no 'x'")

    assert (finished[0].code, finished[0].error) == ("NOT_FOUND", "no 'x'")


def test_bug_is_internal_and_a_cancel_is_cancelled() -> None:
    finished: list[Exchange] = []
    records = recorder(finished)

    with pytest.raises(ZeroDivisionError), records.exchange("grpc", "/a.B/C"):
        raise ZeroDivisionError("secret")
    with pytest.raises(asyncio.CancelledError), records.exchange("grpc", "/a.B/C"):
        raise asyncio.CancelledError

    assert [(one.code, one.error) for one in finished] == [
        ("INTERNAL", "internal error"),
        ("CANCELLED", "the client went away"),
    ]


def test_in_flight_counts_running_exchanges() -> None:
    records = recorder([])

    with records.exchange("grpc", "/a.B/C"), records.exchange("grpc", "/a.B/C"):
        assert records.in_flight == 2
    assert records.in_flight == 0


def test_payloads_above_the_limit_are_not_kept() -> None:
    with recorder([], max_payload_bytes=100).exchange("grpc", "/a.B/C") as exchange:
        exchange.add_infer(b"x" * 60, b"y" * 60)
        exchange.add_infer(oip.ModelInferRequest(raw_input_contents=[b"z" * 200]), None)
        generation = exchange.begin_generation(lm.GenerateRequest(text="w" * 200))

    assert [(call.request, call.response) for call in exchange.tensor_calls] == [(b"x" * 60, None), (None, None)]
    assert generation.truncated
    assert exchange.payload_bytes < 2000


def test_endless_stream_of_calls_is_cut() -> None:
    with recorder([]).exchange("grpc", "/a.B/C") as exchange:
        for _ in range(MAX_CALLS * 2):
            exchange.add_infer(b"", None)

    assert len(exchange.tensor_calls) == MAX_CALLS
