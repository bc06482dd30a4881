"""What a model's process prints, as lines for the log: bounded in length and in number, whatever it prints."""

from __future__ import annotations

import time
from collections.abc import Callable

MAX_LINE_BYTES = 4096


class OutputLines:
    """Calls `on_line` with each whole line, cut at MAX_LINE_BYTES; with at most `max_lines_per_s` of them a second.

    `on_dropped` is called with how many there were beyond that, before the next one that is heard.
    """

    def __init__(
        self,
        on_line: Callable[[str], object],
        on_dropped: Callable[[int], object],
        *,
        max_lines_per_s: int = 100,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._on_line = on_line
        self._on_dropped = on_dropped
        self._max_lines_per_s = max_lines_per_s
        self._now = now
        self._rest = b""
        self._num_dropped = 0
        self._num_lines = 0
        self._second_began = now()

    def feed(self, content: bytes) -> None:
        """Take in what was printed."""
        *lines, rest = content.split(b"\n")
        for line in lines:
            self._line(self._rest + line)
            self._rest = b""
        self._rest = (self._rest + rest)[: MAX_LINE_BYTES + 1]

    def close(self) -> None:
        """There is no more: what has no end of line is a line, too."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""
        self._tell_dropped()

    def _line(self, line: bytes) -> None:
        now = self._now()
        if now - self._second_began >= 1.0:
            self._second_began, self._num_lines = now, 0
        if self._num_lines >= self._max_lines_per_s:
            self._num_dropped += 1
            return
        self._tell_dropped()
        self._num_lines += 1
        text = line[:MAX_LINE_BYTES].decode("utf-8", "replace").rstrip("\r")
        self._on_line(text + "…" if len(line) > MAX_LINE_BYTES else text)

    def _tell_dropped(self) -> None:
        if self._num_dropped:
            self._on_dropped(self._num_dropped)
            self._num_dropped = 0
