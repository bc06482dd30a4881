"""Runs templates in worker processes, and keeps those alive: a template can end its worker, never the service.

A job that its caller gave up is still finished by the worker (its timer bounds that), so that a cancelled request
costs no new process. Knows nothing of chat: it is given a template and variables.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mesh.errors import CorruptArtifact, Internal, InvalidInput, Overloaded, Unavailable
from mesh.logs import get_logger
from transformer import template_worker
from transformer.template_worker import LENGTH, REFUSED

log = get_logger(__name__)

# What a worker gets beyond its CPU time: on a busy machine that takes longer by the clock.
_GRACE_S = 10.0


class TemplateRefusal(InvalidInput):
    """The template does not take this conversation; the message is the template's own."""


class TemplateFault(CorruptArtifact):
    """The template itself is broken, or exceeds its bounds."""


@dataclass(frozen=True, slots=True)
class TemplateLimits:
    """Bounds of one job."""

    cpu_s: float = 2.0
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
        worker = await self._try_start()
        try:
            while True:
                job = await self._jobs.get()
                if job.result.done():
                    continue
                worker = worker or await self._try_start()
                if worker is None:
                    _settle(job, Unavailable("no process can be started to render the prompt"))
                    continue
                try:
                    _settle(job, await self._exchange(worker, job))
                except (OSError, EOFError, TimeoutError) as error:
                    _settle(job, await self._post_mortem(worker, job, error))
                    worker = await self._try_start()
                except asyncio.CancelledError:
                    _settle(job, Unavailable("the service is shutting down"))
                    raise
                except Exception as error:  # the top of the worker's task: one job must not end it for all others
                    log.error("template_job_failed", what=job.what, exc_info=error)
                    _settle(job, Internal(f"the {job.what} could not be rendered"))
                    await worker.end()
                    worker = None
        finally:
            if worker is not None:
                await worker.end()

    async def _try_start(self) -> _Worker | None:
        """A new worker; None when the machine has no room for one now."""
        try:
            return await _start_worker(self._limits)
        except OSError as error:
            log.error("template_worker_not_started", error=str(error))
            return None

    async def _exchange(self, worker: _Worker, job: _Job) -> list[str] | Exception:
        async with asyncio.timeout(self._limits.cpu_s + _GRACE_S):
            reply = json.loads(await worker.ask(job.frame))
        if "texts" in reply:
            texts: list[str] = reply["texts"]
            return texts
        if reply["error"] == REFUSED:
            return TemplateRefusal(f"the {job.what} does not take these messages: {reply['message']}", field="messages")
        return TemplateFault(f"the {job.what} {reply['message']}")

    async def _post_mortem(self, worker: _Worker, job: _Job, error: Exception) -> Exception:
        """The error of a job whose worker died under it, or hangs."""
        status = await worker.end()
        log.warning("template_worker_ended", template=job.what, status=status)
        if isinstance(error, TimeoutError) or status == -signal.SIGPROF:
            return TemplateFault(f"the {job.what} does not finish within {self._limits.cpu_s:g} s of computing")
        return TemplateFault(f"the {job.what} ends the process that renders it")


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process of template_worker.py, and the socket that is its stdin and stdout."""

    process: subprocess.Popen[bytes]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, frame: bytes) -> bytes:
        """The reply frame. Raises EOFError or OSError when the process ends."""
        self.writer.write(LENGTH.pack(len(frame)) + frame)
        await self.writer.drain()
        (length,) = LENGTH.unpack(await self.reader.readexactly(LENGTH.size))
        return await self.reader.readexactly(length)

    async def end(self) -> int:
        """End the process, if it has not ended by itself; returns its status."""
        self.writer.close()
        self.process.kill()  # does nothing to a process that has ended
        return await asyncio.to_thread(self.process.wait)


async def _start_worker(limits: TemplateLimits) -> _Worker:
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            process = await asyncio.to_thread(_spawn, limits, theirs.fileno())
    except OSError:
        ours.close()
        raise
    return _Worker(process, *await asyncio.open_connection(sock=ours))


def _spawn(limits: TemplateLimits, stdio: int) -> subprocess.Popen[bytes]:
    # Not asyncio's subprocess: that forks, which gRPC's threads do not like; Popen's vfork runs none of their code.
    return subprocess.Popen(
        (
            sys.executable,
            "-P",  # the folder of the script is no place to import from
            template_worker.__file__,
            str(limits.cpu_s),
            str(limits.memory_bytes),
            str(limits.output_chars),
        ),
        stdin=stdio,
        stdout=stdio,
        # Ctrl-C in a terminal is for the service, which drains first.
        start_new_session=True,
    )


def _settle(job: _Job, outcome: list[str] | Exception) -> None:
    if job.result.done():  # its caller has gone
        return
    if isinstance(outcome, Exception):
        job.result.set_exception(outcome)
    else:
        job.result.set_result(outcome)
