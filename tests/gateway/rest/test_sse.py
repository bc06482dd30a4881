"""Server-sent events: framing, the first event, and what a late failure becomes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest

from gateway.exchange import Exchange, Recorder
from gateway.rest import sse
from mesh.errors import PromptTooLong, Unavailable


def exchange(protocol: str) -> Exchange:
    with Recorder([], max_payload_bytes=0).exchange(protocol, "/x") as made:
        made.request_id = "r-1"
        return made


async def sent(events: AsyncGenerator[bytes, None], protocol: str = "v2") -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        messages.append(message)

    response = await sse.stream_events(events, exchange(protocol))
    await response({"type": "http"}, None, send)  # type: ignore[arg-type]
    return messages


async def test_events_are_sent_as_they_are_and_the_stream_ends() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield sse.event({"a": "zwei\nZeilen"})
        yield sse.DONE

    start, *bodies = await sent(events())

    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert headers[b"cache-control"] == b"no-cache"
    assert b"content-length" not in headers
    assert b"".join(body["body"] for body in bodies) == b'data: {"a":"zwei\\nZeilen"}\n\ndata: [DONE]\n\n'
    assert [body["more_body"] for body in bodies] == [True, True, False]


async def test_named_event_has_its_type_as_its_name() -> None:
    assert sse.named_event({"type": "ping"}) == b'event: ping\ndata: {"type":"ping"}\n\n'


async def test_failure_before_the_first_event_is_no_stream() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        raise PromptTooLong("too long")
        yield b""

    with pytest.raises(PromptTooLong):
        await sent(events())


@pytest.mark.parametrize(
    ("protocol", "error", "event"),
    [
        ("v2", Unavailable("gone"), b'data: {"error":"gone"}\n\n'),
        (
            "openai",
            Unavailable("gone"),
            b'data: {"error":{"message":"gone","type":"service_unavailable_error","param":null,"code":null}}\n\n',
        ),
        (
            "v2",
            ZeroDivisionError("secret"),
            b'data: {"error":"internal error; the logs have it under request id r-1"}\n\n',
        ),
    ],
)
async def test_late_failure_is_an_event_in_the_form_of_the_protocol(
    protocol: str, error: Exception, event: bytes
) -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield sse.event(1)
        raise error

    messages = await sent(events(), protocol)

    assert [message["body"] for message in messages[1:]] == [b"data: 1\n\n", event, b""]


async def test_stream_without_events_is_empty() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        return
        yield b""

    assert [message["body"] for message in (await sent(events()))[1:]] == [b"", b""]
