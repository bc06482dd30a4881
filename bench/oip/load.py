"""What a server is asked, and what a client saw of it. Knows no client and no server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class BadLoad(Exception):
    """An answer failed or was wrong, so that the others say nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """A closed loop: `concurrency` requests at a time, until `num_requests` are answered."""

    num_requests: int
    concurrency: int


@dataclass(frozen=True, slots=True)
class Run:
    """took_s: from the first request to the last answer. latencies_s: of each request."""

    took_s: float
    latencies_s: tuple[float, ...]


class Client(Protocol):
    """A program that asks one server on one port."""

    async def run(self, port: int, load: Load, folder: Path) -> Run:
        """Raises BadLoad. folder: for what the program needs on disk."""
        ...


def parts(load: Load, count: int) -> list[Load]:
    """The load in `count` parts, for as many ports; fewer, where there are not enough requests at a time for all."""
    count = min(count, load.concurrency)
    return [Load(load.num_requests // count, load.concurrency // count) for _ in range(count)]


def joined(runs: Sequence[Run]) -> Run:
    """What clients saw that ran at the same time."""
    return Run(max(run.took_s for run in runs), tuple(latency for run in runs for latency in run.latencies_s))
