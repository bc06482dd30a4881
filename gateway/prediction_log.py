"""One JSON line per prediction, written off the request's path by a thread of its own.

The queue is bounded in records and in bytes: when the disk is slower than the requests, records are dropped and
counted, and no request waits. A failing disk is counted, logged once, and tried again with the next record. What a
record holds is not known here (gateway/prediction_record.py).
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry, Counter

from gateway.exchange import Exchange
from mesh.logs import get_logger

log = get_logger(__name__)

# How long a record may wait for others: waking the thread for each would cost the event loop more than the record does.
GATHER_S = 0.05


class PredictionLog:
    """`submit` is a sink for finished exchanges. Close it to write what is queued."""

    def __init__(
        self,
        path: Path,
        to_record: Callable[[Exchange], dict[str, Any]],
        registry: CollectorRegistry,
        *,
        max_file_bytes: int,
        max_files: int,
        max_queued: int = 4096,
        max_queued_bytes: int = 64 << 20,
    ) -> None:
        """max_files: how many files there may be, `path` and the older `path.1`, `path.2`, …"""
        self._file = RotatingFile(path, max_file_bytes, max_files)
        self._to_record = to_record
        self._max_queued = max_queued
        self._max_queued_bytes = max_queued_bytes
        self._queue: deque[tuple[Exchange, int]] = deque()
        self._queued_bytes = 0
        self._is_closing = False
        self._is_failing = False
        self._changed = threading.Condition()
        self._written = Counter("meshserve_prediction_log_records", "Predictions written.", registry=registry)
        self._dropped = Counter(
            "meshserve_prediction_log_dropped",
            "Predictions not written: the queue was full, or the write failed.",
            ["reason"],
            registry=registry,
        )
        for reason in ("queue_full", "write_failed"):
            self._dropped.labels(reason)
        self._thread = threading.Thread(target=self._write_all, name="prediction-log", daemon=True)
        self._thread.start()

    def submit(self, exchange: Exchange) -> None:
        """Queue the exchange if it is a prediction; never waits for the disk."""
        if not exchange.is_prediction:
            return
        size_bytes = exchange.payload_bytes
        with self._changed:
            is_full = len(self._queue) >= self._max_queued or self._queued_bytes + size_bytes > self._max_queued_bytes
            if is_full or self._is_closing:
                self._dropped.labels("queue_full").inc()
                return
            self._queue.append((exchange, size_bytes))
            self._queued_bytes += size_bytes
            if len(self._queue) == 1 or self._is_filling():
                self._changed.notify()

    def close(self, timeout_s: float = 5.0) -> None:
        """Write what is queued, within `timeout_s`. Blocks: call it off the event loop."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _write_all(self) -> None:
        while exchanges := self._next():
            self._write(exchanges)
        self._file.close()

    def _next(self) -> list[Exchange]:
        """All that is queued once something is; empty at the end."""
        with self._changed:
            while not self._queue and not self._is_closing:
                self._changed.wait()
            self._changed.wait_for(lambda: self._is_closing or self._is_filling(), GATHER_S)
            exchanges = [exchange for exchange, _ in self._queue]
            self._queue.clear()
            self._queued_bytes = 0
            return exchanges

    def _is_filling(self) -> bool:
        return 2 * len(self._queue) >= self._max_queued or 2 * self._queued_bytes >= self._max_queued_bytes

    def _write(self, exchanges: list[Exchange]) -> None:
        lines = []
        error: Exception | None = None
        for exchange in exchanges:
            try:
                # 64-bit seeds are within what the library writes; keys are ours.
                lines.append(orjson.dumps(self._to_record(exchange)) + b"\n")
            except Exception as broken:
                # The top of a thread: whatever is wrong with one record, the next one is tried.
                error = broken
        num_written, failure = self._file.append(lines)
        error = failure or error
        self._written.inc(num_written)
        self._dropped.labels("write_failed").inc(len(exchanges) - num_written)
        if error is not None and not self._is_failing:
            self._is_failing = True
            log.error("prediction_log_failed", path=str(self._file.path), error=str(error))
        elif error is None and self._is_failing:
            self._is_failing = False
            log.info("prediction_log_recovered", path=str(self._file.path))


class RotatingFile:
    """A file to append whole lines to; when it is full it becomes `path.1`, and what was that `path.2`."""

    def __init__(self, path: Path, max_bytes: int, max_files: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._descriptor: int | None = None
        self._size_bytes = 0

    def append(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """Write `lines`, as many as a file takes with one write; how many are written, and why the others are not.

        No part of a line is left behind.
        """
        num_written = 0
        while num_written < len(lines):
            try:
                num_written += self._append(lines, num_written)
            except OSError as error:
                self.close()
                return num_written, error
        return num_written, None

    def _append(self, lines: Sequence[bytes], first: int) -> int:
        """Write the lines from `first` on that one file takes, at least one; gives their number."""
        if self._descriptor is not None and self._size_bytes + len(lines[first]) > self._max_bytes and self._size_bytes:
            self._rotate()
        descriptor = self._opened()
        size_bytes, end = len(lines[first]), first + 1
        while end < len(lines) and self._size_bytes + size_bytes + len(lines[end]) <= self._max_bytes:
            size_bytes += len(lines[end])
            end += 1
        written = os.write(descriptor, b"".join(lines[first:end]))
        if written < size_bytes:
            os.ftruncate(descriptor, self._size_bytes)
            raise OSError(f"only {written} of {size_bytes} bytes fit")
        self._size_bytes += written
        return end - first

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        if self._descriptor is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
            self._size_bytes = os.fstat(self._descriptor).st_size
        return self._descriptor

    def _rotate(self) -> None:
        self.close()
        for number in range(self._max_files - 1, 0, -1):
            older = self._numbered(number)
            newer = self._numbered(number - 1)
            if newer.exists():
                newer.replace(older)
        if self._max_files == 1:
            self.path.unlink(missing_ok=True)

    def _numbered(self, number: int) -> Path:
        return self.path if number == 0 else self.path.with_name(f"{self.path.name}.{number}")
