"""What a replica reports counts beside what this process dispatched there, and never below it."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mesh.endpoints import Endpoint
from mesh.load_report import LoadReport
from mesh.v1.registry_pb2 import Replica


def endpoint_with(work: float) -> Endpoint:
    no_channel: Any = None
    return Endpoint(Replica(id="r"), no_channel, dispatched_work=work)


WORK = st.floats(0, 1e6)


@given(own_then=WORK, own_now=WORK, reported=WORK)
def test_a_replica_is_never_thought_less_busy_than_this_process_made_it(
    own_then: float, own_now: float, reported: float
) -> None:
    endpoint = endpoint_with(own_then)
    endpoint.reported(LoadReport(work=reported))
    endpoint.dispatched_work = own_now

    assert endpoint.load >= own_now
    assert endpoint.load <= own_now + reported


def test_the_work_of_others_counts_until_the_next_report() -> None:
    endpoint = endpoint_with(10.0)

    endpoint.reported(LoadReport(work=25.0))
    endpoint.dispatched_work = 4.0
    assert endpoint.load == 4.0 + 15.0

    endpoint.reported(LoadReport(work=4.0))
    assert endpoint.load == 4.0
