"""HTTP/1.1 for a fuzzer: any method, path, header and body goes out as it is, on connections that are kept.

Answers are parsed by httptools; nothing is followed, unpacked or checked. Redirects and TLS are not known here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import httptools


@dataclass
class HttpAnswer:
    """status: 0 when the connection was closed before an answer."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class HttpRequest:
    """Content-length is added; the other headers are as given."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""

    def to_bytes(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {host}", f"content-length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n" + self.body


class HttpClient:
    """Keeps the connections that servers leave open, and takes the last used one first. HEAD is not for it."""

    def __init__(self, address: str) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._idle: list[_Connection] = []

    async def ask(self, request: HttpRequest) -> HttpAnswer:
        """The answer, on a kept connection where there is one."""
        connection = self._idle.pop() if self._idle else await self._connect()
        answer = await connection.ask(request.to_bytes(self._host))
        if answer.status == 0:
            # The server may close an idle connection at any time: only a new one's silence says something.
            connection.close()
            connection = await self._connect()
            answer = await connection.ask(request.to_bytes(self._host))
        if connection.is_open:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def _connect(self) -> _Connection:
        return _Connection(*await asyncio.open_connection(self._host, self._port))

    async def close(self) -> None:
        """Close all kept connections."""
        for connection in self._idle:
            connection.close()


class _Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.is_open = True
        self._is_complete = False
        self._answer = HttpAnswer()

    async def ask(self, request: bytes) -> HttpAnswer:
        self._answer, self._is_complete = HttpAnswer(), False
        parser = httptools.HttpResponseParser(self)
        try:
            self._writer.write(request)
            while not self._is_complete:
                data = await self._reader.read(1 << 16)
                if not data:
                    self.is_open = False
                    break
                parser.feed_data(data)
        except ConnectionError:
            self.is_open = False
        else:
            self._answer.status = parser.get_status_code() if self._is_complete else 0
            self.is_open = self.is_open and self._is_complete and parser.should_keep_alive()
        return self._answer

    def close(self) -> None:
        self._writer.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        self._answer.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._answer.body += body

    def on_message_complete(self) -> None:
        self._is_complete = True
