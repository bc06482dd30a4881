"""Tries what a stranger sent in a process that may die of it, and remembers how it went.

llguidance bounds the work of most grammars, not of all: a chain of 4,000 rules overflows the stack, an intersection of
expressions runs for minutes, a schema with multipleOf 1000003 takes 290 MB. In the worker the kernel bounds all three.
Whatever passes there can be compiled anywhere: the work is the same, and the stack is larger.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections import OrderedDict
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from threading import Lock

from mesh.errors import InvalidInput, MeshError, Overloaded, Unavailable
from mesh.logs import get_logger
from predictor.llm.guide import GuideSpec
from predictor.llm.guides.vocabulary import GuideVocabulary

log = get_logger(__name__)

_MAX_VERDICTS = 1024
_END_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """Bounds of one trial, and of the queue before it.

    memory_bytes: beyond what the worker has when it begins. stack_bytes: far below the 8 MB of a process's own stack.
    num_ways, num_tokens: how often, and how far, the guide is followed.
    """

    cpu_s: float = 0.5
    memory_bytes: int = 64 << 20
    stack_bytes: int = 1 << 20
    num_ways: int = 4
    num_tokens: int = 32
    max_waiting: int = 32
    answer_timeout_s: float = 15.0


class Trial:
    """One worker process, started when it is first needed. Safe to use from several threads; trials run in turn."""

    def __init__(self, vocabulary: GuideVocabulary, limits: TrialLimits) -> None:
        self._vocabulary = vocabulary
        self._limits = limits
        self._turn = Lock()
        self._waiting = Lock()  # guards the two below
        self._num_waiting = 0
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()  # by digest of the spec; "" when it passed
        self._worker: _Worker | None = None

    def check(self, spec: GuideSpec) -> None:
        """Raise InvalidInput unless `spec` compiles within the limits and its guide can be followed.

        Raises Overloaded when too many wait, and Unavailable when no worker can be had in time.
        """
        digest = hashlib.sha256(repr(spec).encode("utf-8", "surrogatepass")).digest()
        verdict = self._recall(digest)
        if verdict is None:
            self._queue()
            try:
                verdict = self._try_in_turn(digest, spec)
            finally:
                with self._waiting:
                    self._num_waiting -= 1
        if verdict:
            raise InvalidInput(verdict, field=spec.kind.value)

    def close(self) -> None:
        """End the worker. A trial that runs fails with Unavailable."""
        if (worker := self._worker) is not None:
            self._worker = None
            worker.end()

    def _recall(self, digest: bytes) -> str | None:
        with self._waiting:
            if (verdict := self._verdicts.get(digest)) is not None:
                self._verdicts.move_to_end(digest)
            return verdict

    def _queue(self) -> None:
        with self._waiting:
            if self._num_waiting >= self._limits.max_waiting:
                raise Overloaded(f"{self._num_waiting} guides wait to be tried; no more can")
            self._num_waiting += 1

    def _try_in_turn(self, digest: bytes, spec: GuideSpec) -> str:
        if not self._turn.acquire(timeout=self._limits.answer_timeout_s):
            raise Overloaded("the guide could not be tried in time, since others are")
        try:
            # Another thread may have tried the same meanwhile.
            if (verdict := self._recall(digest)) is None:
                verdict = self._try(spec)
                with self._waiting:
                    self._verdicts[digest] = verdict
                    while len(self._verdicts) > _MAX_VERDICTS:
                        self._verdicts.popitem(last=False)
            return verdict
        finally:
            self._turn.release()

    def _try(self, spec: GuideSpec) -> str:
        """What is wrong with `spec`; "" for nothing."""
        worker = self._worker
        if worker is None:
            worker = self._worker = _Worker(self._vocabulary, self._limits)
        try:
            return worker.ask(spec, self._limits.answer_timeout_s)
        except (EOFError, OSError) as error:
            self._worker = None
            status = worker.end()
            log.warning("guide_trial_ended", kind=spec.kind.value, status=status)
            return self._post_mortem(spec, status, error)

    def _post_mortem(self, spec: GuideSpec, status: int, error: Exception) -> str:
        limits, field = self._limits, spec.kind.value
        if status == -signal.SIGPROF:
            return f"{field} takes more than {limits.cpu_s:g} s of computing; make it simpler"
        if status == -signal.SIGSEGV:
            return f"{field} is nested too deeply, or refers from one part to the next too often in a row"
        if status == -signal.SIGABRT:
            return f"{field} needs more than {limits.memory_bytes >> 20} MB of memory; make it simpler"
        raise _unavailable() from error


class _Worker:
    """A process of trial_worker.py. Raises Unavailable when it cannot be started."""

    def __init__(self, vocabulary: GuideVocabulary, limits: TrialLimits) -> None:
        try:
            self._pipe, theirs = Pipe()
        except OSError as error:
            raise _unavailable() from error
        try:
            self._process = _spawn(theirs)
        except OSError as error:
            self._pipe.close()
            raise _unavailable() from error
        finally:
            theirs.close()  # only the worker may hold its end: its death is then the end of the pipe
        try:
            self._pipe.send((vocabulary, limits))
        except OSError as error:
            self.end()
            raise _unavailable() from error

    def ask(self, spec: GuideSpec, timeout_s: float) -> str:
        """The worker's verdict. Raises EOFError or OSError, TimeoutError among them, when there is none."""
        self._pipe.send(spec)
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        verdict: str = self._pipe.recv()
        return verdict

    def end(self) -> int:
        """End the process, if it has not ended by itself; returns its status."""
        self._pipe.close()
        try:
            # It may be on its way out: the pipe closes a moment before the process is gone.
            return self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait(_END_TIMEOUT_S)


def _spawn(theirs: Connection) -> subprocess.Popen[bytes]:
    # A fresh interpreter, not a fork: gRPC's threads and locks do not survive a fork.
    return subprocess.Popen(
        [sys.executable, "-m", "predictor.llm.guides.trial_worker", str(theirs.fileno())],
        # An arena of memory for each thread would count against the worker's limit.
        env={**os.environ, "MALLOC_ARENA_MAX": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # where Rust says that memory ran out
        pass_fds=[theirs.fileno()],
        # Ctrl-C in a terminal is for the service, which drains first.
        start_new_session=True,
    )


def _unavailable() -> MeshError:
    return Unavailable("no process can be had to try the guide")
