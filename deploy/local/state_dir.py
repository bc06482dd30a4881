"""The folder `.meshserve`: where everything lies that outlives a process, and who may use it.

One `up` per folder: it holds a lock that the kernel drops when it dies, so there is no stale lock to remove.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mesh.errors import Conflict, Unavailable

DEFAULT = Path(".meshserve")


@dataclass(frozen=True, slots=True)
class StateDir:
    """The paths below one state directory. `path` is absolute."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

    @property
    def deployments_file(self) -> Path:
        return self.path / "deployments.yaml"

    @property
    def trace_file(self) -> Path:
        return self.path / "traces.jsonl"

    @property
    def prediction_log_file(self) -> Path:
        return self.path / "predictions.jsonl"

    @property
    def models(self) -> Path:
        return self.path / "models"

    def log_file(self, service: str) -> Path:
        return self.path / "logs" / f"{service}.log"

    def ready_file(self, service: str) -> Path:
        return self.path / "ready" / f"{service}.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Own the folder inside the block. Raises Conflict when another `up` has it, Unavailable when none can."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise Unavailable(
                f"cannot use the state directory {self.path}: {(error.strerror or str(error)).lower()}; "
                "choose another with --state-dir"
            ) from error
        try:
            self._lock(descriptor)
            yield
        finally:
            os.close(descriptor)

    def is_locked(self) -> bool:
        """Whether an `up` runs with this folder now."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise Conflict(
                f"a mesh already runs with the state directory {self.path} (pid {holder}); "
                "stop it with Ctrl-C in its terminal, or give this one another --state-dir and --port-offset"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
