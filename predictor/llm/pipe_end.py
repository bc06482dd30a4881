"""An event loop's end of a pipe whose other end is a `multiprocessing.connection.Connection`.

The loop itself reads and writes: a thread in between would be woken for every message, and wake the loop in its turn.
Neither a silent peer nor a full pipe holds it up. Messages are pickled; both ends are the same installation.
"""

from __future__ import annotations

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

# Connection's frames: a length as a signed 32-bit number, or -1 and a length of 64 bits, then the bytes.
_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!iQ")
_MAX_SHORT = 0x7FFFFFFF
_READ_BYTES = 1 << 18


class PipeEnd:
    """Use it from one running event loop; owns `end`.

    on_message is called on the loop with each message, in order, on_closed after the last when the peer is gone.
    """

    def __init__(
        self, end: socket.socket, on_message: Callable[[Any], object], on_closed: Callable[[], object]
    ) -> None:
        end.setblocking(False)
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._on_message = on_message
        self._on_closed = on_closed
        self._is_open = True
        self._received = bytearray()
        self._unsent = bytearray()
        self._loop.add_reader(end, self._read)

    def send(self, message: object) -> None:
        """Send soon; never blocks, and keeps what the pipe has no room for. What is sent to nobody is lost."""
        if not self._is_open:
            return
        payload = pickle.dumps(message)
        size = len(payload)
        frame = (_SHORT.pack(size) if size <= _MAX_SHORT else _LONG.pack(-1, size)) + payload
        if not self._unsent:
            frame = frame[self._sent(frame) :]
            if frame:
                self._loop.add_writer(self._end, self._write)
        self._unsent += frame

    def close(self) -> None:
        """Take in what the peer has said up to now, and close. Safe to call twice."""
        while self._is_open and self._read():
            pass
        self._closed()
        self._end.close()

    def _sent(self, content: bytes | bytearray) -> int:
        try:
            return self._end.send(content)
        except BlockingIOError:
            return 0
        except OSError:
            return len(content)  # the peer is gone, as the reader will find

    def _write(self) -> None:
        del self._unsent[: self._sent(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._end)

    def _read(self) -> bool:
        """Take in what is there; False when that is nothing."""
        try:
            data = self._end.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._closed()
            return False
        self._received += data
        for payload in self._payloads():
            # Not called here: what it raises must not cost the messages after it.
            self._loop.call_soon(self._on_message, pickle.loads(payload))  # noqa: S301 -- our own process wrote it
        return True

    def _payloads(self) -> Iterator[bytes]:
        """The payloads that are complete; what is left waits for more."""
        start, received = 0, self._received
        while len(received) - start >= _SHORT.size:
            (size,) = _SHORT.unpack_from(received, start)
            header = _SHORT.size
            if size == -1:
                header = _LONG.size
                if len(received) - start < header:
                    break
                _, size = _LONG.unpack_from(received, start)
            end = start + header + size
            if len(received) < end:
                break
            yield bytes(memoryview(received)[start + header : end])
            start = end
        del received[:start]

    def _closed(self) -> None:
        if self._is_open:
            self._is_open = False
            self._loop.remove_reader(self._end)
            self._loop.remove_writer(self._end)
            self._loop.call_soon(self._on_closed)
