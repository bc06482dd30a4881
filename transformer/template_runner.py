"""Runs templates in worker processes, and keeps those alive: a template can end its worker, never the service.

A job that its caller gave up is still finished by the worker (its alarm bounds that), so that a cancelled request
costs no new process. Knows nothing of chat: it is given a template and variables.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mesh.errors import CorruptArtifact, InvalidInput, Overloaded, Unavailable
from mesh.logs import get_logger
from transformer import template_worker
from transformer.template_worker import LENGTH, REFUSED

log = get_logger(__name__)

# Beyond the worker's own alarm: covers a machine that is too busy to deliver it.
_GRACE_S = 5.0


class TemplateRefusal(InvalidInput):
    """The template does not take this conversation; the message is the template's own."""


class TemplateFault(CorruptArtifact):
    """The template itself is broken, or exceeds its bounds."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Bounds of one job."""

    time_s: float = 2.0
    memory_bytes: int = 512 << 20
    output_chars: int = 8_000_000


@dataclass(frozen=True, slots=True)
class _Job:
    what: str
    frame: bytes
    result: asyncio.Future[list[str]]


class TemplateRunnerPool:
    """`num_workers` processes behind one bounded queue. Implements transformer.steps.prompt.TemplateRunner."""

    def __init__(self, limits: TemplateLimits, *, num_workers: int = 1, max_waiting: int = 256) -> None:
        self._limits = limits
        self._num_workers = num_workers
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(max_waiting)
        self._owners: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers; they are warm when this returns or soon after."""
        self._owners = [asyncio.create_task(self._own_worker()) for _ in range(self._num_workers)]

    async def close(self) -> None:
        """End the workers. Jobs that wait are refused."""
        for owner in self._owners:
            owner.cancel()
        await asyncio.gather(*self._owners, return_exceptions=True)
        while not self._jobs.empty():
            _settle(self._jobs.get_nowait(), Unavailable("the service is shutting down"))

    async def run(self, what: str, template: str, variables: Sequence[Mapping[str, object]]) -> list[str]:
        """As transformer.steps.prompt.TemplateRunner.run."""
        frame = json.dumps({"template": template, "variables": list(variables)}).encode()
        job = _Job(what, frame, asyncio.get_running_loop().create_future())
        try:
            self._jobs.put_nowait(job)
        except asyncio.QueueFull:
            raise Overloaded(f"{self._jobs.maxsize} prompts wait to be rendered; no more can") from None
        return await job.result

    async def _own_worker(self) -> None:
        """Give one worker process its jobs, and replace the process when a job ended it."""
        process: Process | None = await self._try_spawn()
        try:
            while True:
                job = await self._jobs.get()
                if job.result.done():
                    continue
                process = process or await self._try_spawn()
                if process is None:
                    _settle(job, Unavailable("no process can be started to render the prompt"))
                    continue
                try:
                    _settle(job, await self._exchange(process, job))
                except (OSError, EOFError, TimeoutError) as error:
                    _settle(job, await self._post_mortem(process, job, error))
                    process = await self._try_spawn()
                except asyncio.CancelledError:
                    _settle(job, Unavailable("the service is shutting down"))
                    raise
        finally:
            if process is not None:
                await _end(process)

    async def _try_spawn(self) -> Process | None:
        """A new worker; None when the machine has no room for one now."""
        limits = self._limits
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # the folder of the script is no place to import from
                template_worker.__file__,
                str(limits.time_s),
                str(limits.memory_bytes),
                str(limits.output_chars),
                stdin=PIPE,
                stdout=PIPE,
                # Ctrl-C in a terminal is for the service, which drains first.
                start_new_session=True,
            )
        except OSError as error:
            log.error("template_worker_not_started", error=str(error))
            return None

    async def _exchange(self, process: Process, job: _Job) -> list[str] | Exception:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LENGTH.pack(len(job.frame)) + job.frame)
        async with asyncio.timeout(self._limits.time_s + _GRACE_S):
            await process.stdin.drain()
            (length,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
            reply = json.loads(await process.stdout.readexactly(length))
        if "texts" in reply:
            texts: list[str] = reply["texts"]
            return texts
        if reply["error"] == REFUSED:
            return TemplateRefusal(f"the {job.what} does not take these messages: {reply['message']}", field="messages")
        return TemplateFault(f"the {job.what} {reply['message']}")

    async def _post_mortem(self, process: Process, job: _Job, error: Exception) -> Exception:
        """The error of a job whose worker died under it, or hangs."""
        with suppress(TimeoutError):
            # A worker that closed its pipes is ending by itself: a kill now would hide how it ended.
            await asyncio.wait_for(process.wait(), 0 if isinstance(error, TimeoutError) else _GRACE_S)
        await _end(process)
        log.warning("template_worker_ended", template=job.what, status=process.returncode)
        if isinstance(error, TimeoutError) or process.returncode == -signal.SIGALRM:
            return TemplateFault(f"the {job.what} does not finish within {self._limits.time_s:g} s")
        return TemplateFault(f"the {job.what} ends the process that renders it")


def _settle(job: _Job, outcome: list[str] | Exception) -> None:
    if job.result.done():  # its caller has gone
        return
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.wait()
