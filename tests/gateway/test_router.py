"""Paths find their handlers, and what is not there is said."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import Door


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v2/models/echo", 200, None),
        ("HEAD", "/v2/models/echo", 200, None),
        ("GET", "/v2/models/a%20b", 404, None),
        ("GET", "/v2/models/echo/", 404, None),
        ("GET", "/v2/models//infer", 404, None),
        ("PUT", "/v2/logging", 405, "GET, HEAD, POST"),
        ("GET", "/v2/models/echo/infer", 405, "POST"),
        ("GET", "/v1/models/echo:predict", 405, "POST"),
        ("POST", "/v2/models/stats", 405, "GET, HEAD"),
        ("OPTIONS", "/v2", 405, "GET, HEAD"),
    ],
)
async def test_path_and_method(door: Door, method: str, path: str, status: int, allowed: str | None) -> None:
    answer = await door.http.request(method, path)

    assert (answer.status_code, answer.headers.get("allow")) == (status, allowed)


async def test_route_of_a_refused_request_is_known_to_its_record(door: Door) -> None:
    await door.http.post("/v2/models/nobody/infer", json={})

    assert (await door.records())[0]["route"] == "/v2/models/{model}/infer"
