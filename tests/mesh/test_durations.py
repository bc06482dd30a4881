"""What is shown is what prometheus_client would show."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from mesh.durations import Durations

BUCKETS = (0.001, 0.25, 1, 2.5, 60)
NAME, TEXT, LABELS = "calls_seconds", "How long calls took.", ["method", "code"]
LABELLED = st.tuples(st.sampled_from(["/a/B", 'odd "name"']), st.sampled_from(["OK", "INTERNAL"]))
SECONDS = st.one_of(st.sampled_from(BUCKETS), st.sampled_from([0.0, 0.0005, 0.5, 3.0, 61.0]))


@given(observations=st.lists(st.tuples(LABELLED, SECONDS), max_size=50))
def test_shown_as_the_client_library_shows_a_histogram(observations: list[tuple[tuple[str, str], float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    durations = Durations(NAME, TEXT, LABELS, buckets=BUCKETS, registry=ours)
    histogram = Histogram(NAME, TEXT, LABELS, buckets=BUCKETS, registry=theirs)
    for labels, seconds in observations:
        durations.labels(*labels).observe(seconds)
        histogram.labels(*labels).observe(seconds)

    assert shown(ours) == shown(theirs)


def shown(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    # When a metric began is its own affair.
    return [line for line in lines if "_created" not in line]


def test_labels_are_those_that_were_declared() -> None:
    durations = Durations(NAME, TEXT, LABELS, buckets=BUCKETS, registry=CollectorRegistry())

    with pytest.raises(ValueError, match="calls_seconds has the labels"):
        durations.labels("/a/B")


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry()
    Durations(NAME, TEXT, LABELS, buckets=BUCKETS, registry=registry)

    with pytest.raises(ValueError, match="Duplicated"):
        Durations(NAME, TEXT, LABELS, buckets=BUCKETS, registry=registry)
