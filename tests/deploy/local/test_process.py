"""One process kept alive: its output, its restarts after a growing delay, and its end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from deploy.local.backoff import BackoffPolicy
from deploy.local.process import Command, KeptProcess, how_it_ended, read_lines


class Observer:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.lines: list[bytes] = []
        self.delays: list[float] = []
        self.ends: list[str] = []
        self.news = asyncio.Event()

    def on_started(self, pid: int) -> None:
        self.pids.append(pid)
        self.news.set()

    def on_line(self, line: bytes) -> None:
        self.lines.append(line)
        self.news.set()

    def on_ended(self, how: str, returncode: int, restart_in_s: float) -> None:
        self.ends.append(how)
        self.delays.append(restart_in_s)


class Clock:
    """A clock that moves only when somebody sleeps by it."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


def python(code: str) -> Command:
    return Command((sys.executable, "-c", code), {"PYTHONUNBUFFERED": "1"})


async def test_a_process_that_dies_is_started_again_after_growing_delays(tmp_path: Path) -> None:
    observer, clock = Observer(), Clock()
    policy = BackoffPolicy(first_s=0.2, max_s=1.0, steady_s=30)
    kept = KeptProcess(
        python("import os; os._exit(3)"), observer, tmp_path / "log", policy, now=clock.now, sleep=clock.sleep
    )
    running = asyncio.create_task(kept.run())

    async with asyncio.timeout(30):
        while len(observer.pids) < 5:
            observer.news.clear()
            await observer.news.wait()
    await kept.stop(5)
    await running

    assert observer.delays[:4] == [0.2, 0.4, 0.8, 1.0]
    assert observer.ends[0] == "ended with status 3"
    assert len(set(observer.pids[:5])) == 5


async def test_both_outputs_are_kept_line_by_line(tmp_path: Path) -> None:
    observer = Observer()
    code = "import sys, time; print('out'); print('err', file=sys.stderr); print('x' * 200000); time.sleep(600)"
    kept = KeptProcess(python(code), observer, tmp_path / "log", BackoffPolicy())
    running = asyncio.create_task(kept.run())

    async with asyncio.timeout(30):
        while sum(line.count(b"x") for line in observer.lines) < 200_000:
            observer.news.clear()
            await observer.news.wait()
    assert await kept.stop(5)
    await running

    assert observer.lines[:2] == [b"out", b"err"]
    assert max(map(len, observer.lines)) <= 2 * 65536
    assert (tmp_path / "log").read_bytes().startswith(b"out\nerr\nxxx")


async def test_a_program_that_does_not_exist_is_said_and_tried_again(tmp_path: Path) -> None:
    observer, clock = Observer(), Clock()
    kept = KeptProcess(
        Command(("/no/such/program",)), observer, tmp_path / "log", BackoffPolicy(), now=clock.now, sleep=clock.sleep
    )
    running = asyncio.create_task(kept.run())

    async with asyncio.timeout(30):
        while not any(b"No such file" in line for line in observer.lines):
            observer.news.clear()
            await observer.news.wait()
    await kept.stop(5)
    await running

    assert observer.pids


async def test_stopping_before_the_start_is_no_error(tmp_path: Path) -> None:
    kept = KeptProcess(python("pass"), Observer(), tmp_path / "log", BackoffPolicy())

    assert await kept.stop(1)


async def test_lines_come_whole_however_the_chunks_fall() -> None:
    output, lines = asyncio.StreamReader(), list[bytes]()
    for chunk in (b"on", b"e\ntw", b"o\n\nthr", b"ee"):
        output.feed_data(chunk)
    output.feed_eof()

    await read_lines(output, lines.append)

    assert lines == [b"one", b"two", b"", b"three"]


def test_the_end_of_a_process_has_words() -> None:
    assert how_it_ended(0) == "ended with status 0"
    assert how_it_ended(-9) == "was killed by SIGKILL"
    assert how_it_ended(-250) == "was killed by signal 250"
