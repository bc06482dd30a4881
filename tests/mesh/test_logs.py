"""Structured logs: one JSON object a line, with the request's id."""

from __future__ import annotations

import io
import json

import pytest

from mesh import context, logs


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("predictor", level="info", stream=stream)
    return stream


def test_event_has_service_module_request_and_fields(stream: io.StringIO) -> None:
    with context.bind(context.RequestContext("r-1")):
        logs.get_logger("m").info("model_loaded", model="iris", seconds=0.5)

    event = json.loads(stream.getvalue())
    assert event.items() >= {
        "event": "model_loaded", "service": "predictor", "module": "m", "request_id": "r-1", "model": "iris",
        "seconds": 0.5, "level": "info",
    }.items()  # fmt: skip


def test_exception_is_logged_whole_on_one_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("line one\nline two")
    except ValueError as error:
        logs.get_logger("m").error("failed", exc_info=error)

    assert stream.getvalue().count("\n") == 1
    assert "Traceback" in json.loads(stream.getvalue())["exception"]


def test_events_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logs.get_logger("m").debug("noise")

    assert stream.getvalue() == ""


def test_console_form_is_for_people() -> None:
    stream = io.StringIO()
    logs.configure("predictor", log_format="console", stream=stream)

    logs.get_logger("m").info("model_loaded", model="iris")

    assert "model_loaded" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


def test_an_event_is_one_write() -> None:
    """A predictor and its engine log to one stream: what takes two writes may be torn by another's line."""

    class Writes(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.seen: list[str] = []

        def write(self, text: str) -> int:
            self.seen.append(text)
            return super().write(text)

    stream = Writes()
    logs.configure("test", "info", "json", stream)

    logs.get_logger("x").info("happened")

    assert [text.endswith("}\n") for text in stream.seen] == [True]
