"""One service kept alive: its process is started, its output kept, and a new one started after a growing delay.

Knows a command line, a log and a delay, not what the process serves. Each process leads a session of its own: a
Ctrl-C in the terminal reaches only the supervisor, and whatever the process started dies with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deploy.local import launch
from deploy.local.backoff import Backoff, BackoffPolicy
from deploy.local.log_file import LogFile

_READ_BYTES = 64 << 10
_MAX_LINE_BYTES = 64 << 10
_NUM_LAST_LINES = 20
# The pipe closes with the last process that holds it; one that left its session may hold it for ever.
_LAST_WORDS_S = 1.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, and what its environment has beside ours."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class ProcessObserver(Protocol):
    """Is told what happens to the process, on the event loop."""

    def on_started(self, pid: int) -> None: ...

    def on_line(self, line: bytes) -> None: ...

    def on_ended(self, how: str, returncode: int, restart_in_s: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process, and the pipe that both its outputs go to."""

    process: Process
    output: asyncio.StreamReader
    pipe: asyncio.ReadTransport


async def spawn(command: Command) -> Spawned:
    """Start `command` so that it dies with this process. The caller closes the pipe."""
    # -I -S: the launcher is ten lines that need nothing of the environment or of site-packages.
    launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
    # A pipe of asyncio's own would make `Process.wait` wait until the last process that holds it is gone.
    read_end, write_end = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *launcher,
            *command.arguments,
            env={**os.environ, **command.environment},
            stdin=DEVNULL,
            stdout=write_end,
            stderr=write_end,
            start_new_session=True,
        )
    except BaseException:
        os.close(read_end)
        raise
    finally:
        os.close(write_end)
    output = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(read_end, "rb", 0)
    )
    return Spawned(process, output, pipe)


async def read_lines(output: asyncio.StreamReader, on_line: Callable[[bytes], None]) -> None:
    """Hand each line of `output` to `on_line` until it closes; lines longer than 64 KiB come in parts."""
    rest = b""
    while chunk := await output.read(_READ_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            on_line(line)
        if len(rest) >= _MAX_LINE_BYTES:
            on_line(rest)
            rest = b""
    if rest:
        on_line(rest)


class KeptProcess:
    """Keeps one process alive until `stop`. `run` is the only task that starts processes."""

    def __init__(
        self,
        command: Command,
        observer: ProcessObserver,
        log_path: Path,
        backoff: BackoffPolicy,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.restarts = 0
        self.last_lines: deque[bytes] = deque(maxlen=_NUM_LAST_LINES)
        self._command = command
        self._observer = observer
        self._log = LogFile(log_path)
        self._backoff = Backoff(backoff)
        self._now = now
        self._sleep = sleep
        self._process: Process | None = None
        self._stopping = asyncio.Event()
        self._finished = asyncio.Event()
        self._finished.set()

    @property
    def pid(self) -> int | None:
        """The process that runs now; None between two runs."""
        return None if self._process is None else self._process.pid

    async def run(self) -> None:
        """Start the process, and again whenever it ends; returns after `stop`."""
        self._finished.clear()
        try:
            while not self._stopping.is_set():
                started = self._now()
                try:
                    returncode = await self._run_once()
                    how = how_it_ended(returncode)
                except OSError as error:
                    returncode, how = 1, f"could not be started: {error.strerror}"
                if self._stopping.is_set():
                    return
                delay_s = self._backoff.delay_after(self._now() - started)
                self._observer.on_ended(how, returncode, delay_s)
                await self._wait_unless_stopping(delay_s)
                self.restarts += 1
        finally:
            self._log.close()
            self._finished.set()

    async def stop(self, patience_s: float) -> bool:
        """End the process: SIGTERM, and SIGKILL after `patience_s` seconds. False when it had to be killed."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(patience_s):
                await self._finished.wait()
        except TimeoutError:
            self.kill()
            await self._finished.wait()
            return False
        return True

    def kill(self) -> None:
        """End the process and all that it started, now."""
        self._stopping.set()
        self.replace()

    def replace(self) -> None:
        """End the process and all that it started, now; `run` starts another."""
        if self._process is not None:
            _kill_group(self._process.pid)

    async def _run_once(self) -> int:
        spawned = await spawn(self._command)
        self._process = process = spawned.process
        reading = asyncio.create_task(read_lines(spawned.output, self._take_line))
        try:
            self._observer.on_started(process.pid)
            # `stop` may have come while the process was being started, when there was nothing to signal.
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            return await process.wait()
        finally:
            # What it started would hold the other end of the pipe, and the port that its successor needs.
            _kill_group(process.pid)
            self._process = None
            await asyncio.wait({reading}, timeout=_LAST_WORDS_S)
            reading.cancel()
            spawned.pipe.close()

    def _take_line(self, line: bytes) -> None:
        self._log.write(line)
        self.last_lines.append(line)
        self._observer.on_line(line)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _wait_unless_stopping(self, delay_s: float) -> None:
        sleeping = asyncio.ensure_future(self._sleep(delay_s))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({sleeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            stopping.cancel()


def how_it_ended(returncode: int) -> str:
    """ "ended with status 1", "was killed by SIGKILL"."""
    if returncode >= 0:
        return f"ended with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
