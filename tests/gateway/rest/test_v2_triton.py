"""What Triton's clients ask beyond the protocol has a plain answer."""

from __future__ import annotations

import pytest

from tests.gateway.conftest import Door


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/systemsharedmemory/status", 200),
        ("GET", "/v2/cudasharedmemory/status", 200),
        ("GET", "/v2/systemsharedmemory/region/r/status", 404),
        ("POST", "/v2/systemsharedmemory/region/r/register", 501),
        ("POST", "/v2/cudasharedmemory/unregister", 501),
        ("GET", "/v2/logging", 501),
        ("POST", "/v2/trace/setting", 501),
        ("GET", "/v2/models/echo/trace/setting", 501),
    ],
)
async def test_what_is_not_offered_says_so(door: Door, method: str, path: str, status: int) -> None:
    answer = await door.http.request(method, path)

    assert answer.status_code == status
    assert answer.json() == [] if status == 200 else isinstance(answer.json()["error"], str)
