"""What a server says of its load follows from what it answers, and from what the service knows besides."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.load_meter import FRESH_S, TRAILER_EVERY_S, WINDOW_S, Holdings, LoadMeter
from mesh.load_report import decode_load_report


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meter(clock: Clock) -> LoadMeter:
    return LoadMeter(clock)


def test_a_request_is_one_piece_of_work_unless_the_service_says_more(meter: LoadMeter) -> None:
    meter.began()
    meter.began()
    with meter.work(120.0):
        assert meter.report().work == 121.0
        assert meter.report().running == 2
    meter.ended(is_failed=False)
    assert meter.report().work == 1.0


def test_what_the_service_holds_is_in_the_report(meter: LoadMeter) -> None:
    meter.ask(lambda: Holdings(queued=2, queued_tokens=70, kv_usage=0.75, num_places=8))
    for _ in range(3):
        meter.began()

    report = meter.report()

    assert (report.running, report.queued, report.queued_tokens, report.kv_usage) == (1, 2, 70, 0.75)
    assert report.utilization == 0.75  # the fullest of its resources


def test_rates_and_utilization_are_those_of_the_last_window(meter: LoadMeter, clock: Clock) -> None:
    meter.ask(lambda: Holdings(num_places=4))
    for number in range(10):
        meter.began()
        clock.now += 0.2
        meter.ended(is_failed=number == 0)

    report = meter.report()

    assert report.requests_per_s == pytest.approx(10 / 2)
    assert report.errors_per_s == pytest.approx(1 / 2)
    assert report.utilization == pytest.approx(1 / 4)  # one of four places, all of the time
    # Divided, they say what the server could do: four places, each taken for 0.2 s.
    assert report.requests_per_s / report.utilization == pytest.approx(4 / 0.2)

    clock.now += WINDOW_S
    assert meter.report().requests_per_s == 0.0


def test_a_report_is_encoded_once_in_a_while_and_told_apart_by_identity(meter: LoadMeter, clock: Clock) -> None:
    num_asked = 0

    def holdings() -> Holdings:
        nonlocal num_asked
        num_asked += 1
        return Holdings(queued=num_asked // 3)

    meter.ask(holdings)
    first = meter.encoded()
    assert meter.encoded() is first
    clock.now += FRESH_S / 2
    assert meter.encoded() is first
    assert num_asked == 1

    clock.now += FRESH_S
    assert meter.encoded() is first  # asked again, and nothing has changed
    clock.now += FRESH_S
    second = meter.encoded()
    report = decode_load_report(second)
    assert report is not None and report.queued == 1


def test_of_calls_in_quick_succession_one_has_the_trailer(meter: LoadMeter, clock: Clock) -> None:
    assert meter.trailer() == meter.encoded()
    assert meter.trailer() is None
    clock.now += TRAILER_EVERY_S
    assert meter.trailer() == meter.encoded()


@given(st.lists(st.tuples(st.sampled_from(["began", "ended", "report"]), st.floats(0, 3)), max_size=60))
def test_the_report_agrees_with_a_plain_count(steps: list[tuple[Literal["began", "ended", "report"], float]]) -> None:
    clock = Clock()
    meter = LoadMeter(clock)
    num_running = 0
    for step, pause_s in steps:
        clock.now += pause_s
        if step == "began":
            meter.began()
            num_running += 1
        elif step == "ended" and num_running:
            meter.ended(is_failed=False)
            num_running -= 1
        report = meter.report()
        assert report.running == report.work == num_running
        assert report.utilization >= 0.0 and report.requests_per_s >= report.errors_per_s == 0.0
