"""Answers on their way out: packed when that is asked and pays, streams never."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.answer import Answer
from gateway.content_coding import unpack
from tests.gateway.conftest import Door


class Sent:
    """What went out, and the Answer before it."""

    def __init__(self, accept_encoding: str | None) -> None:
        self.messages: list[dict[str, Any]] = []
        self.answer = Answer(self._send, "r-1", accept_encoding, 1000)

    async def _send(self, message: Any) -> None:
        self.messages.append(message)

    async def write(self, *parts: bytes, length: int | None) -> None:
        headers = [] if length is None else [(b"content-length", str(length).encode())]
        await self.answer.send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in parts[:-1]:
            await self.answer.send({"type": "http.response.body", "body": part, "more_body": True})
        await self.answer.send({"type": "http.response.body", "body": parts[-1]})

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.messages[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.messages[1:])


@pytest.mark.parametrize("size", [1000, 200_000])
async def test_large_answer_is_packed_for_who_asks(size: int) -> None:
    sent = Sent("gzip")

    await sent.write(b"{}", bytes(size), length=size + 2)

    assert sent.headers[b"content-encoding"] == b"gzip"
    assert sent.headers[b"content-length"] == str(len(sent.body)).encode()
    assert sent.headers[b"vary"] == b"accept-encoding"
    assert sent.headers[b"x-request-id"] == b"r-1"
    assert unpack("gzip", sent.body, 1 << 20) == b"{}" + bytes(size)
    assert sent.answer.is_complete


@pytest.mark.parametrize(
    ("accept_encoding", "length"), [(None, 5000), ("identity", 5000), ("gzip", 999), ("gzip", None)]
)
async def test_others_go_out_as_they_are(accept_encoding: str | None, length: int | None) -> None:
    sent = Sent(accept_encoding)

    await sent.write(bytes(10), bytes((length or 20) - 10), length=length)

    assert b"content-encoding" not in sent.headers
    assert len(sent.body) == (length or 20)
    assert sent.answer.is_complete


async def test_error_takes_the_place_of_what_was_held_back() -> None:
    sent = Sent("gzip")
    await sent.answer.send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4000")]})
    await sent.answer.send({"type": "http.response.body", "body": b"half", "more_body": True})
    assert not sent.answer.has_begun

    await sent.answer.send({"type": "http.response.start", "status": 504, "headers": [(b"content-length", b"2")]})
    await sent.answer.send({"type": "http.response.body", "body": b"{}"})

    assert (sent.messages[0]["status"], sent.body, sent.answer.status) == (504, b"{}", 504)


async def test_stream_is_not_packed(door: Door) -> None:
    body = {"model": "chat", "prompt": "x", "stream": True}

    answer = await door.http.post("/v1/completions", json=body, headers={"accept-encoding": "gzip"})

    assert "content-encoding" not in answer.headers
    assert answer.content.endswith(b"data: [DONE]\n\n")


async def test_unknown_coding_of_a_body_is_415_and_the_connection_goes_on(door: Door) -> None:
    answer = await door.http.post("/v1/completions", content=b"{}", headers={"content-encoding": "br"})

    assert answer.status_code == 415
    assert "'br' is not known" in answer.json()["error"]["message"]
    assert (await door.http.get("/v2/health/live")).status_code == 200
