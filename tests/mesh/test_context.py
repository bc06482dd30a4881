"""Request context: ids that are safe to log, and what is left of a deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import context
from mesh.context import RequestContext
from mesh.errors import InvalidInput


def test_binding_ends_with_the_block() -> None:
    with context.bind(RequestContext("a")):
        with context.bind(RequestContext("b")):
            inner = context.current()
        outer = context.current()

    assert (inner, outer, context.current()) == (RequestContext("b"), RequestContext("a"), None)


@pytest.mark.parametrize(("now", "left"), [(10.0, 5.0), (14.5, 0.5), (20.0, 0.0)])
def test_remaining_time_shrinks_to_zero(now: float, left: float) -> None:
    with context.bind(RequestContext("a", deadline=15.0)):
        assert context.remaining_s(now=lambda: now) == left


def test_remaining_time_without_a_deadline_is_the_default() -> None:
    assert context.remaining_s() is None
    with context.bind(RequestContext("a")):
        assert context.remaining_s(3.0) == 3.0


@given(st.text(max_size=200))
def test_only_safe_ids_are_taken_from_clients(text: str) -> None:
    request_id = context.request_id_from(text)

    assert request_id.isascii()
    assert 1 <= len(request_id) <= 128
    assert not set(request_id) & set('"\\ \n\r\t{}')


def test_safe_id_of_the_client_is_kept() -> None:
    assert context.request_id_from("abc-DEF_1.2:3") == "abc-DEF_1.2:3"


def test_headers_are_those_of_the_current_request() -> None:
    assert context.header("x-user") is None
    with context.bind(RequestContext("a", header={"x-user": "7"}.get)):
        assert (context.header("x-user"), context.header("x-other")) == ("7", None)


@given(st.text(min_size=1, max_size=200))
def test_a_tenant_is_a_safe_name_or_refused(text: str) -> None:
    try:
        tenant = context.tenant_from(text)
    except InvalidInput as error:
        assert error.field == "x-tenant"
    else:
        assert tenant == text == context.request_id_from(text)


@given(st.text(min_size=1, max_size=300))
def test_a_session_is_always_fit_to_be_sent_on_and_stays_the_same_from_hop_to_hop(text: str) -> None:
    session = context.session_from(text)

    assert session == context.request_id_from(session) == context.session_from(session)


def test_sessions_that_are_no_safe_names_are_told_apart() -> None:
    names = ["a b", "a  b", "ä", "x" * 129, "x" * 130, "safe", "\ud800"]

    assert len({context.session_from(name) for name in names}) == len(names)
    assert context.session_from("safe") == "safe"
    assert context.session_from(None) == context.session_from("") == ""


@pytest.mark.parametrize(("text", "priority"), [(None, 0), ("", 0), ("0", 0), ("-100", -100), ("100", 100), ("7", 7)])
def test_priorities(text: str | None, priority: int) -> None:
    assert context.priority_from(text) == priority


@pytest.mark.parametrize("text", ["101", "-101", "1.5", "high", "+1", " 1", "1\n", "१", "99999999999"])
def test_what_is_no_priority_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="x-priority must be a whole number from -100 to 100"):
        context.priority_from(text)
