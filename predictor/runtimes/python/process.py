"""One life of the process that runs a user's class, as the event loop that started it sees it: start, ask, end.

Whether an answer has taken too long, and what to do about a process that ended, is the pool's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mesh.errors import Unavailable
from mesh.logs import get_logger
from predictor.runtimes.python import frames
from predictor.runtimes.python.frames import Frame, FrameError, NamedArray
from predictor.runtimes.python.output import OutputLines

log = get_logger(__name__)

EXIT_TIMEOUT_S = 1.0
END_TIMEOUT_S = 10.0
_OUTPUT_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """model: its name, for the log. num_threads: of numerical libraries. memory_limit_bytes: 0 is no limit.

    environment: variables beside those that every process gets; nothing of this process's own environment goes along.
    """

    model: str
    num_threads: int = 1
    memory_limit_bytes: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)


class ModelProcess:
    """Starts the process when made. Must be made on a running event loop, whose thread outlives the process: Linux
    tells a child of its parent's death when the *thread* ends that made it.

    Raises Unavailable when the machine has no room for another process.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._output = OutputLines(
            lambda line: log.info("model_output", model=spec.model, line=line),
            lambda count: log.warning("model_output_dropped", model=spec.model, lines=count),
        )
        self._reply: asyncio.Future[Frame] | None = None
        self._asking: asyncio.Task[Frame] | None = None
        self._end: asyncio.Task[int] | None = None
        try:
            self._folder = Path(tempfile.mkdtemp(prefix="meshserve-model-"))
            self._socket, theirs = socket.socketpair()
        except OSError as error:
            raise Unavailable(f"the model's process cannot be started: {error.strerror}") from error
        try:
            self._process = _spawn(spec, theirs.fileno(), self._folder)
        except OSError as error:
            self._socket.close()
            shutil.rmtree(self._folder, ignore_errors=True)
            raise Unavailable(f"the model's process cannot be started: {error.strerror}") from error
        finally:
            # Only the process may hold its end: its death is then the end of the stream.
            theirs.close()
        self._socket.setblocking(False)
        self._watch_output()
        self._reader = asyncio.create_task(self._read(), name="model-process-reader")

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_asked(self) -> bool:
        """Whether a question has no answer yet: one whose asker has gone away."""
        return self._asking is not None and not self._asking.done()

    async def ask(self, message: Mapping[str, Any], arrays: Iterable[NamedArray] = ()) -> Frame:
        """Send a message and wait for the one that answers it; one at a time.

        Raises EOFError when the process ends before it has answered, and FrameError for what no frame can hold. A
        cancelled caller leaves the question with the process: `settle` waits until that has answered.
        """
        assert not self.is_asked, "one question at a time"
        buffers = frames.encode(message, arrays)
        self._reply = self._loop.create_future()
        if self.exited.is_set():
            raise EOFError
        self._asking = asyncio.create_task(self._exchange(buffers, self._reply))
        return await asyncio.shield(self._asking)

    async def settle(self, timeout_s: float) -> bool:
        """Wait until a question whose asker went away has its answer, which is dropped; False when time ran out."""
        if self._asking is not None:
            await asyncio.wait({self._asking}, timeout=timeout_s)
        return not self.is_asked

    async def tell(self, message: Mapping[str, Any], timeout_s: float) -> None:
        """Send a message that nothing answers; a process that does not take it misses it."""
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                for buffer in frames.encode(message):
                    await self._loop.sock_sendall(self._socket, buffer)

    async def wait_exited(self, timeout_s: float) -> bool:
        """Wait until the process is gone, and say whether it is."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.exited.wait(), timeout_s)
        return self.exited.is_set()

    async def end(self) -> int:
        """Kill the process and all that it started, reap it, and give back what it had. Safe to call twice.

        Returns the exit status: negative for a signal.
        """
        if self._end is None:
            self._end = asyncio.create_task(self._finish())
        return await asyncio.shield(self._end)

    async def _exchange(self, buffers: Iterable[bytes | memoryview], reply: asyncio.Future[Frame]) -> Frame:
        try:
            for buffer in buffers:
                await self._loop.sock_sendall(self._socket, buffer)
        except OSError as error:
            raise EOFError from error
        return await reply

    async def _read(self) -> None:
        """Take in frames until the process is gone; each answers what was asked last."""
        try:
            while True:
                prefix = await self._receive(frames.PREFIX.size)
                header_bytes, body_bytes = frames.sizes(prefix.data)
                header = await self._receive(header_bytes)
                frame = frames.decode(header.data, await self._receive(body_bytes))
                if self._reply is not None and not self._reply.done():
                    self._reply.set_result(frame)
        except FrameError as error:
            log.error("model_process_broken", pid=self.pid, reason=str(error))
        except (EOFError, OSError):
            pass
        finally:
            self.exited.set()
            if self._reply is not None and not self._reply.done():
                self._reply.set_exception(EOFError())
                self._reply.exception()  # whoever asked may have gone away

    async def _receive(self, num_bytes: int) -> NDArray[np.uint8]:
        content = np.empty(num_bytes, np.uint8)
        view, read = content.data, 0
        while read < num_bytes:
            count = await self._loop.sock_recv_into(self._socket, view[read:])
            if count == 0:
                raise EOFError
            read += count
        return content

    def _watch_output(self) -> None:
        assert self._process.stdout is not None, "Popen was asked for a pipe"
        self._output_fd = self._process.stdout.fileno()
        os.set_blocking(self._output_fd, False)
        self._loop.add_reader(self._output_fd, self._read_output)

    def _read_output(self) -> bool:
        """Take in what was printed; False when there is nothing (any more)."""
        try:
            content = os.read(self._output_fd, _OUTPUT_BYTES)
        except BlockingIOError:
            return False
        if not content:
            self._loop.remove_reader(self._output_fd)
            return False
        self._output.feed(content)
        return True

    async def _finish(self) -> int:
        status = await asyncio.to_thread(self._reap)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        if self._asking is not None:
            await asyncio.gather(self._asking, return_exceptions=True)
        while self._read_output():
            pass
        self._output.close()
        self._loop.remove_reader(self._output_fd)
        self._process.stdout.close()  # type: ignore[union-attr]
        self._socket.close()
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)
        return status

    def _reap(self) -> int:
        if self.exited.is_set():
            # The socket closes a moment before the process is gone; a kill in that moment would hide how it ended.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(EXIT_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait(END_TIMEOUT_S)


def _spawn(spec: ProcessSpec, fd: int, folder: Path) -> subprocess.Popen[bytes]:
    # A fresh interpreter, not a fork: gRPC's threads and locks do not survive a fork.
    arguments = [str(fd), str(os.getpid()), str(spec.memory_limit_bytes)]
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "predictor.runtimes.python.worker", *arguments],
        env=_environment(spec, folder),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[fd],
        # Ctrl-C in a terminal is for the service, which drains first; and what the class starts ends with it.
        start_new_session=True,
    )


def _environment(spec: ProcessSpec, folder: Path) -> dict[str, str]:
    """Not this process's own, which may hold secrets."""
    num_threads = str(spec.num_threads)
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": num_threads,
        "OPENBLAS_NUM_THREADS": num_threads,
        "MKL_NUM_THREADS": num_threads,
        "NUMEXPR_NUM_THREADS": num_threads,
        **spec.environment,
    }
