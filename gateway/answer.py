"""The way of an HTTP answer back to its client: the request's id, the status for the record, and gzip where it pays.

An answer of known length is held until it is whole and then packed; one of unknown length is a stream, whose events
must go out as they come, and is never packed. What answers hold is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from starlette.types import Message, Send

from gateway.content_coding import Buffer, accepted_coding, pack
from mesh import context

_ID_HEADER = context.REQUEST_ID_HEADER.encode()
# Packing this much is quicker than a thread's hand-over.
_PACK_INLINE_BYTES = 1 << 14


class Answer:
    """Stands before `send`. status: of the answer, 0 before there is one. has_begun, is_complete: of what went out."""

    def __init__(
        self,
        send: Send,
        request_id: str,
        accept_encoding: str | None,
        compress_min_bytes: int,
        more_headers: Callable[[], Iterable[tuple[str, str]]] = tuple,
    ) -> None:
        """more_headers: asked for when the answer begins."""
        self.status = 0
        self.has_begun = False
        self.is_complete = False
        self._send = send
        self._id_header = (_ID_HEADER, request_id.encode())
        self._accept_encoding = accept_encoding
        self._more_headers = more_headers
        self._compress_min_bytes = compress_min_bytes
        # Set for an answer that is held back until it is whole.
        self._coding: str | None = None
        self._start: Message = {}
        self._parts: list[Buffer] = []

    async def send(self, message: Message) -> None:
        """ASGI's send."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._coding is not None:
            await self._gather(message)
        else:
            self.is_complete = not message.get("more_body", False)
            await self._send(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        headers = message.setdefault("headers", [])
        headers.append(self._id_header)
        headers += [(name.encode(), value.encode()) for name, value in self._more_headers()]
        self._coding = None
        if self._accept_encoding is not None and self._is_large(headers):
            headers.append((b"vary", b"accept-encoding"))
            self._coding = accepted_coding(self._accept_encoding)
        if self._coding is None:
            self.has_begun = True
            await self._send(message)
        else:
            self._start = message
            self._parts = []

    async def _gather(self, message: Message) -> None:
        self._parts.append(message.get("body", b""))
        if message.get("more_body", False):
            return
        parts, self._parts = self._parts, []
        packed = await self._pack(parts)
        if packed is not None:
            length = (b"content-length", str(len(packed)).encode())
            others = [pair for pair in self._start["headers"] if pair[0] != length[0]]
            self._start["headers"] = [*others, length, (b"content-encoding", str(self._coding).encode())]
            parts = [packed]
        self.has_begun = True
        await self._send(self._start)
        for part in parts:
            await self._send({"type": "http.response.body", "body": part, "more_body": True})
        self.is_complete = True
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pack(self, parts: list[Buffer]) -> bytes | None:
        coding = str(self._coding)
        if sum(len(part) for part in parts) <= _PACK_INLINE_BYTES:
            return pack(coding, parts)
        return await asyncio.to_thread(pack, coding, parts)

    def _is_large(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the answer has a length, and one that is worth packing."""
        length = next((value for name, value in headers if name == b"content-length"), b"0")
        return int(length) >= self._compress_min_bytes
