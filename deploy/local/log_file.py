"""One service's log on disk: at most two files of `max_bytes` each, whatever the service writes.

A full disk costs log lines, never the service: what cannot be written is dropped.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import BinaryIO

MAX_BYTES = 16 << 20


class LogFile:
    """Appends lines to `path`; when it is full it becomes `path`.1, and the older `path`.1 goes."""

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._file: BinaryIO | None = None
        self._size_bytes = 0

    def write(self, line: bytes) -> None:
        """Append `line`, with a newline."""
        with contextlib.suppress(OSError):
            file = self._open()
            file.write(line + b"\n")
            self._size_bytes += len(line) + 1

    def close(self) -> None:
        """Close the file; a later `write` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is not None and self._size_bytes >= self._max_bytes:
            self.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)
            self._size_bytes = self._file.tell()
        return self._file
