"""One life of the engine process, as the event loop that started it sees it: start, send, hear, end.

What to do about a dead engine is `client`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from mesh.errors import Unavailable
from predictor.llm.messages import Command, EngineSpec, Message
from predictor.llm.pipe_end import PipeEnd

# OpenMP threads that wait for each other spin for a moment, then sleep. Spinning as long as by default keeps the
# core from the very thread that is waited for when other processes share the cores; sleeping at once costs more than
# most of a model's small steps take. Figures: docs/log.md.
_ENVIRONMENT = {"GOMP_SPINCOUNT": "20000"}

EXIT_TIMEOUT_S = 1.0
END_TIMEOUT_S = 10.0


class EngineProcess:
    """Starts the process when made. Must be made on a running event loop, whose thread outlives the process: Linux
    tells a child of its parent's death when the *thread* ends that made it.

    on_message and on_exit are called on that loop, in the order of the events; nothing comes after on_exit. What is
    sent is bounded by the caller: a request and an abort for each request that it holds. Raises Unavailable when the
    machine has no room for another process.
    """

    def __init__(self, spec: EngineSpec, on_message: Callable[[Message], None], on_exit: Callable[[], None]) -> None:
        self._on_exit = on_exit
        self._exited = asyncio.Event()
        self._end: asyncio.Task[int] | None = None
        try:
            own_end, engine_end = socket.socketpair()
        except OSError as error:
            raise Unavailable(f"the engine process cannot be started: {error.strerror}") from error
        try:
            # A fresh interpreter, not a fork: gRPC's threads and locks do not survive a fork. And not
            # multiprocessing's spawn, which would run the caller's __main__ again and leave a tracker process behind.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "predictor.llm.worker", str(engine_end.fileno()), str(os.getpid())],
                env={**_ENVIRONMENT, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=subprocess.DEVNULL,
                pass_fds=[engine_end.fileno()],
            )
        except OSError as error:
            own_end.close()
            raise Unavailable(f"the engine process cannot be started: {error.strerror}") from error
        finally:
            # Only the engine may hold its end: its death is then the end of the pipe.
            engine_end.close()
        self._pipe = PipeEnd(own_end, on_message, self._closed)
        self._pipe.send(spec)

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Send soon; never blocks. What is sent to a dead engine is lost."""
        self._pipe.send(command)

    async def wait_exited(self, timeout_s: float) -> bool:
        """Wait until the engine is gone, and say whether it is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._exited.wait(), timeout_s)
        return self._exited.is_set()

    async def end(self) -> int:
        """Kill the engine if it still runs, reap it, and close the pipe. Safe to call twice, and to cancel.

        Returns the exit status: negative for a signal.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._finish())
        return await asyncio.shield(self._end)

    async def _finish(self) -> int:
        status = await asyncio.to_thread(self._reap)
        self._pipe.close()
        return status

    def _reap(self) -> int:
        if self._exited.is_set():
            # The pipe closes a moment before the process is gone; a kill in that moment would hide how it ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S)
        self._process.kill()
        return self._process.wait(END_TIMEOUT_S)

    def _closed(self) -> None:
        self._exited.set()
        self._on_exit()
