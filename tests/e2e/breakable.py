"""A door in front of a real server that can be slammed: to its callers the server is dead, and it is not.

A process takes seconds to start again; a door opens at once, so that many places to die can be tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """Passes TCP connections on to `target` while it is open. `address` stays the same."""

    def __init__(self, target: str) -> None:
        self.address = ""
        self.is_open = True
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def slam(self) -> None:
        """Reset all connections, and every one to come."""
        self.is_open = False
        for writer in self._writers:
            writer.transport.abort()

    async def close(self) -> None:
        self.slam()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def open(self) -> None:
        self.is_open = True

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.is_open:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        host, _, port = self._target.rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        self._writers |= {writer, there_writer}
        try:
            await asyncio.gather(_copy(reader, there_writer), _copy(there_reader, writer))
        finally:
            self._writers -= {writer, there_writer}
            writer.transport.abort()
            there_writer.transport.abort()


@asynccontextmanager
async def door_to(target: str) -> AsyncIterator[Door]:
    """An open door to the server at `target`."""
    door = Door(target)
    server = await asyncio.start_server(door.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    door.address = f"{host}:{port}"
    try:
        yield door
    finally:
        server.close()
        await door.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await reader.read(1 << 16):
            writer.write(content)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
