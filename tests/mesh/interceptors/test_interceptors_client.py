"""What the client chain adds to a call."""

from __future__ import annotations

import time

import grpc.aio

from mesh import context
from mesh.interceptors.client import with_context


def details(timeout: float | None = None, **metadata: str) -> grpc.aio.ClientCallDetails:
    return grpc.aio.ClientCallDetails(
        method=b"/a/B", timeout=timeout, metadata=grpc.aio.Metadata(*metadata.items()), credentials=None,
        wait_for_ready=None,
    )  # fmt: skip


def test_call_outside_a_request_goes_as_it_is() -> None:
    sent = with_context(details(timeout=3.0))

    assert (sent.timeout, list(sent.metadata)) == (3.0, [])


def test_shorter_of_timeout_and_deadline_wins() -> None:
    with context.bind(context.RequestContext("r", deadline=time.monotonic() + 5)):
        assert with_context(details(timeout=1.0)).timeout == 1.0
        left = with_context(details(timeout=60.0)).timeout

    assert left is not None
    assert 4 < left <= 5


def test_id_that_the_caller_set_stays() -> None:
    with context.bind(context.RequestContext("r")):
        assert list(with_context(details(**{"x-request-id": "own"})).metadata) == [("x-request-id", "own")]
        assert list(with_context(details()).metadata) == [("x-request-id", "r")]


def test_whose_it_is_how_urgent_and_its_session_go_along() -> None:
    with context.bind(context.RequestContext("r", tenant="acme", priority=-5, session="s1")):
        sent = dict(with_context(details()).metadata)

    assert sent == {"x-request-id": "r", "x-tenant": "acme", "x-priority": "-5", "x-session-id": "s1"}
