"""Starting and ending a contender, with a server of a few lines instead of one that serves a model."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from bench.llm.answer import BadAnswer, Part, Usage
from bench.llm.contender import Contender
from bench.llm.server import running
from bench.server_process import CannotStart, Command

WAIT = "import signal; signal.pause()"
# A parent that ends on SIGINT without a thought for its child, whose number it writes down.
PARENT = f"""
import pathlib, signal, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {WAIT!r}])
pathlib.Path(sys.argv[1], "child").write_text(str(child.pid))
signal.pause()
"""


class LateClient:
    """Refuses twice, as a server that still loads."""

    asked = 0
    closed = 0

    async def complete(self, prompt: str, max_tokens: int) -> AsyncGenerator[Part, None]:
        LateClient.asked += 1
        if LateClient.asked < 3:
            raise BadAnswer("503: loading")
        yield Part(True, Usage(1, 1))

    async def close(self) -> None:
        LateClient.closed += 1


def contender(program: str) -> Contender:
    def command(port: int, folder: Path) -> Command:
        del port
        return Command((sys.executable, "-c", program, str(folder)))

    def client(port: int, folder: Path) -> LateClient | None:
        del port
        child = folder / "child"
        return LateClient() if child.exists() and child.read_text() else None

    return Contender("test", "q", "p", "1", command, client)


async def test_a_server_has_started_with_its_first_answer_and_ends_with_its_children(tmp_path: Path) -> None:
    LateClient.asked = LateClient.closed = 0

    async with running(contender(PARENT), tmp_path) as server:
        child = psutil.Process(int((tmp_path / "child").read_text()))
        assert child.is_running() and child.ppid() == server.pid

    assert (LateClient.asked, LateClient.closed) == (3, 3)
    assert server.start_s > 0
    assert not psutil.pid_exists(server.pid)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_a_server_that_ends_at_once_says_why(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="ended with 3: no such model"):
        async with running(contender("import sys; print('no such model'); sys.exit(3)"), tmp_path):
            pass
