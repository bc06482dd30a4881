"""Each request leaves one log line with its id, and nothing of what was said."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from mesh import logs
from tests.gateway.conftest import Door


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("gateway", stream=stream)
    yield stream
    logs.configure("gateway")


def lines(stream: io.StringIO, request_id: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    return [event for event in events if event["event"] == "request" and event["request_id"] == request_id]


async def test_answered_request_leaves_one_line(stream: io.StringIO, door: Door) -> None:
    body = {"model": "chat", "messages": [{"role": "user", "content": "a secret"}]}
    await door.http.post("/v1/chat/completions", json=body, headers={"x-request-id": "r-1"})

    (line,) = lines(stream, "r-1")
    assert (line["route"], line["deployment"], line["status"]) == ("/v1/chat/completions", "chat", "200")
    assert line["seconds"] > 0
    assert "secret" not in stream.getvalue()


async def test_failed_request_says_why(stream: io.StringIO, door: Door) -> None:
    await door.http.post("/v2/models/nobody/infer", json={"inputs": []}, headers={"x-request-id": "r-2"})

    (line,) = lines(stream, "r-2")
    assert line["status"] == "404"
    assert "nobody" in line["error"]


async def test_probes_leave_none(stream: io.StringIO, door: Door) -> None:
    await door.http.get("/v2/health/ready", headers={"x-request-id": "r-3"})

    assert lines(stream, "r-3") == []
