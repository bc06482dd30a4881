"""Loads a model file first in a process that may die of it.

XGBoost, LightGBM and ONNX Runtime read files in C++. They trust what they read: one wrong byte can end the process,
or ask for all of its memory. In the process of trial_worker.py that costs one deployment, and not every model that this
predictor serves. A file that passes there is loaded here by the same code.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from mesh.errors import CorruptArtifact, Unavailable
from mesh.logs import get_logger
from mesh.storage.disk import size_of

log = get_logger(__name__)

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class TrialLimits:
    """Bounds of one trial. Both grow with the file: a library's own structures are several times as large.

    memory_bytes, memory_factor: what loading may take, beyond what the process has when it begins. timeout_s: of
    computing; the clock gives three times as much.
    """

    memory_bytes: int = 1 * _GIB
    memory_factor: int = 32
    timeout_s: int = 60
    timeout_s_per_gib: int = 300

    def memory_for(self, size_bytes: int) -> int:
        return self.memory_bytes + self.memory_factor * size_bytes

    def cpu_s_for(self, size_bytes: int) -> int:
        return self.timeout_s + self.timeout_s_per_gib * size_bytes // _GIB


async def try_loading(reader: str, path: Path, limits: TrialLimits | None = None) -> int:
    """Let `reader` ("module:function" of a path) read `path` in a process of its own; returns the bytes that it took.

    Raises CorruptArtifact, with the reader's own sentence or with what ended the process, and Unavailable when the
    machine has no room for a process now.
    """
    limits = limits or TrialLimits()
    size_bytes = await asyncio.to_thread(lambda: size_of(path) if path.exists() else 0)
    cpu_s = limits.cpu_s_for(size_bytes)
    worker = _Worker(reader, path, limits.memory_for(size_bytes), cpu_s)
    try:
        status, answer = await asyncio.to_thread(worker.run, 3 * cpu_s)
    except subprocess.TimeoutExpired:
        raise CorruptArtifact(f"{path.name} does not load within {3 * cpu_s} s") from None
    except OSError as error:
        raise Unavailable(f"no process can be had to try {path.name}") from error
    finally:
        await asyncio.to_thread(worker.end)
    return _verdict(path, status, answer, cpu_s)


class _Worker:
    """A process of trial_worker.py. `run` and `end` block, and may be called in different threads."""

    def __init__(self, reader: str, path: Path, memory_bytes: int, cpu_s: int) -> None:
        module = "predictor.runtimes.trial_worker"
        self._command = [sys.executable, "-m", module, reader, str(path), str(memory_bytes), str(cpu_s)]
        self._lock = Lock()  # guards the two below
        self._process: subprocess.Popen[bytes] | None = None
        self._has_ended = False

    def run(self, timeout_s: float) -> tuple[int, bytes]:
        """Status and answer. Raises OSError when it cannot be started, and subprocess.TimeoutExpired."""
        with self._lock:
            if self._has_ended:
                raise ProcessLookupError
            process = self._process = self._spawn()
        answer, _ = process.communicate(timeout=timeout_s)
        return process.returncode, answer

    def end(self) -> None:
        """End the process, if it has not ended by itself; from now on none is started."""
        with self._lock:
            self._has_ended = True
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        # A fresh interpreter, not a fork: gRPC's threads and locks do not survive a fork.
        return subprocess.Popen(
            self._command,
            # Each thread's stack and arena would count against the limit.
            env={
                **os.environ,
                "MALLOC_ARENA_MAX": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # where C++ says what it died of
            # Ctrl-C in a terminal is for the service, which drains first.
            start_new_session=True,
        )


def _verdict(path: Path, status: int, answer: bytes, cpu_s: int) -> int:
    """What the worker's end means. Raises as `try_loading`."""
    if status == 0:
        found = json.loads(answer)
        if (sentence := found["error"]) is not None:
            if "traceback" in found:
                log.error("model_trial_failed", file=path.name, traceback=found["traceback"])
            raise CorruptArtifact(sentence)
        return int(found["memory_bytes"])
    log.warning("model_trial_ended", file=path.name, status=status)
    if status in (-signal.SIGXCPU, -signal.SIGKILL):
        raise CorruptArtifact(f"{path.name} does not load within {cpu_s} s of computing and the memory of this machine")
    raise CorruptArtifact(f"{path.name} is malformed: it ends the process that loads it ({_end_of(status)})")


def _end_of(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"
