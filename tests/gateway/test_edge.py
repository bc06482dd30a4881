"""The edge of HTTP: ids, deadlines, bodies, and whatever a client may send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from tests.gateway.conftest import Door, open_door

CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
WAITS = {"model": "chat", "prompt": "waits"}


async def raw(door: Door, data: bytes) -> bytes:
    """What the server answers to these bytes, until it closes."""
    host, _, port = door.gateway.http.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(data)
    await writer.drain()
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    return answer


async def test_clients_id_is_on_the_answer_the_next_hop_and_the_record(door: Door) -> None:
    answer = await door.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": "my-1"})

    assert answer.headers["x-request-id"] == "my-1"
    assert answer.json()["id"] == "chatcmpl-my-1"
    assert door.model.metadata[0]["x-request-id"] == "my-1"
    assert (await door.records())[0]["request_id"] == "my-1"


@pytest.mark.parametrize("path", ["/v2/health/live", "/nowhere", "/v1/models/nobody"])
async def test_every_answer_has_an_id(door: Door, path: str) -> None:
    assert len((await door.http.get(path)).headers["x-request-id"]) == 32


async def test_id_that_is_not_safe_is_replaced(door: Door) -> None:
    answer = await door.http.get("/v2", headers={"x-request-id": "a b\tc" * 50})

    assert len(answer.headers["x-request-id"]) == 32


async def test_clients_deadline_travels_and_ends_the_request(door: Door) -> None:
    answer = await door.http.post("/v1/completions", json=WAITS, headers={"x-request-timeout-s": "0.3"})

    assert answer.status_code == 504
    assert answer.json()["error"]["type"] == "timeout_error"
    assert door.model.deadlines[0] is not None
    assert door.model.deadlines[0] < 0.5


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf", "1e9"])
async def test_deadline_that_is_none_is_refused(door: Door, value: str) -> None:
    answer = await door.http.post("/v1/completions", json=WAITS, headers={"x-request-timeout-s": value})

    assert answer.status_code == 400
    assert "x-request-timeout-s" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("name", "value"), [("x-tenant", "a b"), ("x-priority", "101")])
async def test_wrong_tenant_or_priority_is_refused(door: Door, name: str, value: str) -> None:
    answer = await door.http.post("/v1/completions", json=WAITS, headers={name: value})

    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


async def test_default_deadline_is_the_gateways(tmp_path: Path) -> None:
    async with open_door(tmp_path, request_timeout_s=0.3) as door:
        assert (await door.http.post("/v1/completions", json=WAITS)).status_code == 504


@pytest.mark.parametrize("chunked", [False, True])
async def test_body_above_the_limit_is_413_and_the_next_request_works(tmp_path: Path, chunked: bool) -> None:
    async with open_door(tmp_path, max_body_bytes=2000) as door:
        body = orjson.dumps({"model": "chat", "prompt": "x" * 100_000})

        async def pieces() -> object:
            for start in range(0, len(body), 10_000):
                yield body[start : start + 10_000]

        content = pieces() if chunked else body
        answer = await door.http.post("/v1/completions", content=content)  # type: ignore[arg-type]

        assert answer.status_code == 413
        assert "2000 bytes" in answer.json()["error"]["message"]
        assert (await door.http.post("/v1/chat/completions", json=CHAT)).status_code == 200


async def test_body_that_does_not_come_is_a_timeout(tmp_path: Path) -> None:
    async with open_door(tmp_path, body_timeout_s=0.2) as door:
        answer = await raw(door, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")

        assert answer.startswith(b"HTTP/1.1 408")
        assert b"within 0.2 s" in answer


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v2 HTTP/1.1\r\nContent-Length: abc\r\n\r\n",
        b"GET /" + b"\xff" * 50 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50 + b"bad header\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_refused_and_the_server_lives(door: Door, data: bytes) -> None:
    answer = await raw(door, data)

    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    assert (await door.http.get("/v2/health/live")).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\x00", b"null", b'"text"', b"[" * 50_000, b'{"model": NaN}'])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_body_that_is_no_json_object_is_openais_bad_request(door: Door, path: str, body: bytes) -> None:
    answer = await door.http.post(path, content=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


async def test_more_requests_than_the_limit_are_refused_at_once(tmp_path: Path) -> None:
    async with open_door(tmp_path, max_concurrent_requests=1) as door:
        waiting = asyncio.create_task(door.http.post("/v1/completions", json=WAITS))
        async with asyncio.timeout(5):
            await door.model.started.wait()

        refused = await door.http.post("/v1/completions", json=WAITS)

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        door.model.gate.set()
        assert (await waiting).status_code == 200


async def test_many_requests_on_one_connection_keep_their_answers_apart(door: Door) -> None:
    async def ask(number: int) -> None:
        answer = await door.http.post("/v1/chat/completions", json=CHAT, headers={"x-request-id": f"n{number}"})
        assert answer.json()["id"] == f"chatcmpl-n{number}"

    await asyncio.gather(*(ask(number) for number in range(60)))

    assert len(await door.records(60)) == 60


async def test_trace_of_the_client_goes_on(door: Door) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await door.http.post("/v1/chat/completions", json=CHAT, headers={"traceparent": parent})

    assert door.model.metadata[0]["traceparent"].split("-")[1] == "0af7651916cd43dd8448eb211c80319c"
    assert (await door.records())[0]["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
