"""Starts a contender, waits for its first token, and ends it with all its processes."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from bench.llm.answer import BadAnswer, Client
from bench.llm.contender import Contender
from bench.server_process import CannotStart, free_port, spawn, stop, tail

START_TIMEOUT_S = 300.0
_RETRY_EVERY_S = 0.05
_LOG = "log.txt"


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
    process = spawn(contender.command(port, folder), folder / _LOG)
    try:
        client = await _first_token(contender, process, port, folder, started_at)
        start_s = perf_counter() - started_at
        try:
            yield Server(process.pid, client, start_s)
        finally:
            await client.close()
    finally:
        await asyncio.to_thread(stop, process)


async def _first_token(
    contender: Contender, process: subprocess.Popen[bytes], port: int, folder: Path, started_at: float
) -> Client:
    while perf_counter() < started_at + START_TIMEOUT_S:
        if process.poll() is not None:
            raise CannotStart(f"{contender.name} ended with {process.returncode}: {tail(folder / _LOG)}")
        client = contender.client(port, folder)
        if client is not None:
            with suppress(BadAnswer):
                async with aclosing(client.complete("Hello", 1)) as parts:
                    async for _ in parts:
                        pass
                return client
            await client.close()
        await asyncio.sleep(_RETRY_EVERY_S)
    raise CannotStart(f"{contender.name} gave no token within {START_TIMEOUT_S:.0f} s: {tail(folder / _LOG)}")
