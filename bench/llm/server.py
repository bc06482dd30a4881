"""Starts a contender, waits for its first token, and ends it with all its processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil

from bench.llm.answer import BadAnswer, Client
from bench.llm.contender import Command, Contender, free_port
from bench.llm.processes import tree
from deploy.local import launch

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0
_RETRY_EVERY_S = 0.05
_LOG = "log.txt"


class CannotStart(Exception):
    """A contender ended, or gave no token in time. The message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Server:
    """start_s: seconds from the start of the command to the first token of the first answer."""

    pid: int
    client: Client
    start_s: float


@asynccontextmanager
async def running(contender: Contender, folder: Path) -> AsyncIterator[Server]:
    """The contender, from its first token on; ended at the end of the block. Raises CannotStart.

    folder: for its log and what else it keeps.
    """
    port = free_port()
    started_at = perf_counter()
    process = _spawn(contender.command(port, folder), folder / _LOG)
    try:
        client = await _first_token(contender, process, port, folder, started_at)
        start_s = perf_counter() - started_at
        try:
            yield Server(process.pid, client, start_s)
        finally:
            await client.close()
    finally:
        await asyncio.to_thread(stop, process)


def _spawn(command: Command, log: Path) -> subprocess.Popen[bytes]:
    # The launcher has the kernel end the server when the benchmark dies: none may disturb the next run.
    launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
    with log.open("wb") as file:
        return subprocess.Popen(
            (*launcher, *command.argv),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )


async def _first_token(
    contender: Contender, process: subprocess.Popen[bytes], port: int, folder: Path, started_at: float
) -> Client:
    while perf_counter() < started_at + START_TIMEOUT_S:
        if process.poll() is not None:
            raise CannotStart(f"{contender.name} ended with {process.returncode}: {_tail(folder)}")
        client = contender.client(port, folder)
        if client is not None:
            with suppress(BadAnswer):
                async with aclosing(client.complete("Hello", 1)) as parts:
                    async for _ in parts:
                        pass
                return client
            await client.close()
        await asyncio.sleep(_RETRY_EVERY_S)
    raise CannotStart(f"{contender.name} gave no token within {START_TIMEOUT_S:.0f} s: {_tail(folder)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, as a person would; what is still there after STOP_TIMEOUT_S is killed."""
    everybody = tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for each in everybody:
        with suppress(psutil.Error):
            each.kill()
    process.wait()
    psutil.wait_procs(everybody, timeout=STOP_TIMEOUT_S)


def _tail(folder: Path) -> str:
    return " | ".join((folder / _LOG).read_text(errors="replace").splitlines()[-5:])
