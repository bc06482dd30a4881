"""A way to a server that can be frozen, as a SIGSTOP freezes the server: connections stay, and nothing passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Relay:
    """Passes bytes on while `passes` is set. address: "127.0.0.1:port" of this end."""

    def __init__(self, target: str) -> None:
        self.passes = asyncio.Event()
        self.passes.set()
        self.address = ""
        self.num_connections = 0
        self._target = target
        self._tasks: set[asyncio.Task[None]] = set()

    def freeze(self) -> None:
        self.passes.clear()

    def thaw(self) -> None:
        self.passes.set()

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        host, _, port = self._target.rpartition(":")
        there, out = await asyncio.open_connection(host, int(port))
        for source, sink in ((reader, out), (there, writer)):
            task = asyncio.create_task(self._pass_on(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while content := await source.read(1 << 16):
                await self.passes.wait()
                sink.write(content)
                await sink.drain()
        except ConnectionError:
            pass
        finally:
            sink.close()


@asynccontextmanager
async def relay_to(target: str) -> AsyncIterator[Relay]:
    relay = Relay(target)
    server = await asyncio.start_server(relay.on_connection, "127.0.0.1", 0)
    relay.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield relay
    finally:
        relay.thaw()
        server.close()
        await relay.close()
