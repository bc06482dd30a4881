"""News about models out of JSON log lines, and nothing out of other lines."""

from __future__ import annotations

import json

import pytest

from deploy.local.events import ModelFailed, ModelProgress
from deploy.local.log_line import model_event, readable


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def test_progress_of_a_download_is_in_megabytes() -> None:
    event = model_event(line(event="model_progress", model="m", stage="download", done=12_000_000, total=98_362_432))

    assert event == ModelProgress("m", "download", 12_000_000, 98_362_432)
    assert event.words == "download, 12 of 98 MB"


def test_progress_of_other_stages_is_in_parts() -> None:
    event = model_event(line(event="model_progress", model="m", stage="load", done=3, total=30))

    assert event is not None
    assert event == ModelProgress("m", "load", 3, 30)
    assert ModelProgress("m", "load", 3, 30).words == "load, 10%"


def test_a_failure_has_its_sentence() -> None:
    assert model_event(line(event="model_failed", model="m", error="no space")) == ModelFailed("m", "no space")


def test_an_unforeseen_failure_has_the_last_line_of_its_stack() -> None:
    failed = line(event="model_failed", model="m", exception="Traceback:\n  …\nValueError: odd")

    assert model_event(failed) == ModelFailed("m", "ValueError: odd")


@pytest.mark.parametrize(
    "other",
    [
        b"",
        b"not json",
        b'"model_progress"',
        b'["model_progress"]',
        line(event="model_progress"),
        line(event="listening"),
    ],
)
def test_other_lines_are_no_news(other: bytes) -> None:
    assert model_event(other) is None


def test_a_line_is_readable_in_one_line() -> None:
    assert readable(line(event="service_failed", error="port 1 is taken")) == "service_failed: port 1 is taken"
    assert readable(b"plain words \xff\n") == "plain words \ufffd"
    assert len(readable(b"x" * 10_000)) <= 300
