"""Load reports: any bytes are read without harm, and a replica cannot draw calls by what it says."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.endpoints import FRESH_S, STALE_S, Endpoint
from mesh.load_report import (
    MAX_FIGURE,
    MAX_REPORT_BYTES,
    LoadReport,
    decode_load_report,
    encode_load_report,
)
from mesh.orca.orca_load_report_pb2 import OrcaLoadReport
from mesh.v1.registry_pb2 import Replica

COUNT = st.integers(0, 10**9)
FIGURE = st.floats(0, MAX_FIGURE)
REPORT = st.builds(
    LoadReport,
    running=COUNT,
    queued=COUNT,
    queued_tokens=COUNT,
    kv_usage=st.floats(0, 1),
    work=FIGURE,
    requests_per_s=FIGURE,
    errors_per_s=FIGURE,
    utilization=FIGURE,
)


@given(REPORT)
def test_what_is_encoded_is_read_again(report: LoadReport) -> None:
    assert decode_load_report(encode_load_report(report)) == report


def is_sane(report: LoadReport) -> bool:
    figures = dataclasses.astuple(report)
    return all(math.isfinite(figure) and 0 <= figure <= MAX_FIGURE for figure in figures) and report.kv_usage <= 1


@given(
    named=st.dictionaries(
        st.sampled_from(["running", "queued", "queued_tokens", "kv_usage", "work", "x"]), st.floats()
    ),
    rps=st.floats(),
    eps=st.floats(),
    utilization=st.floats(),
)
def test_figures_that_make_no_sense_become_some_that_do(
    named: dict[str, float], rps: float, eps: float, utilization: float
) -> None:
    orca = OrcaLoadReport(named_metrics=named, rps_fractional=rps, eps=eps, application_utilization=utilization)

    report = decode_load_report(orca.SerializeToString())

    assert report is not None and is_sane(report)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report_that_makes_sense_or_none(encoded: bytes) -> None:
    report = decode_load_report(encoded)

    assert report is None or is_sane(report)


def test_what_is_too_large_is_no_report() -> None:
    endless = OrcaLoadReport(named_metrics={str(number): 1.0 for number in range(MAX_REPORT_BYTES)})

    assert decode_load_report(endless.SerializeToString()) is None


def endpoint_with(work: float) -> Endpoint:
    no_channel: Any = None
    return Endpoint(Replica(id="r"), no_channel, dispatched_work=work)


WORK = st.floats(0, 1e6)


@given(own_then=WORK, own_now=WORK, reported=WORK, age_s=st.floats(0, 100))
def test_a_replica_is_never_thought_less_busy_than_this_process_made_it(
    own_then: float, own_now: float, reported: float, age_s: float
) -> None:
    endpoint = endpoint_with(own_then)
    endpoint.reported(LoadReport(work=reported), now=1.0)
    endpoint.dispatched_work = own_now
    endpoint.doubt(now=1.0 + age_s)

    assert endpoint.load >= own_now
    assert endpoint.load <= own_now + reported


def test_the_work_of_others_counts_until_the_next_report() -> None:
    endpoint = endpoint_with(10.0)

    endpoint.reported(LoadReport(work=25.0), now=0.0)
    endpoint.dispatched_work = 4.0
    assert endpoint.load == 4.0 + 15.0

    endpoint.reported(LoadReport(work=4.0), now=0.0)
    assert endpoint.load == 4.0


def test_an_old_report_is_believed_less_and_less_until_nothing_is_left() -> None:
    endpoint = endpoint_with(0.0)
    endpoint.reported(LoadReport(work=80.0), now=100.0)
    loads = []
    for age_s in (FRESH_S, (FRESH_S + STALE_S) / 2, STALE_S, STALE_S + 1):
        endpoint.doubt(now=100.0 + age_s)
        loads.append(endpoint.load)

    assert loads == [80.0, 40.0, 0.0, 0.0]
