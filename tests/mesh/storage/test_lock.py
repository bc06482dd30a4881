"""The lock between processes: one holder, a deadline, a name to blame, freed by death."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh.errors import DeadlineExceeded
from mesh.storage.lock import file_lock, lock_if_free

HOLDER = """
import asyncio, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from mesh.storage.lock import file_lock
async def hold():
    deadline = asyncio.get_running_loop().time() + 10
    async with file_lock(Path(sys.argv[2]), deadline=deadline, purpose="a test"):
        print("held", flush=True)
        signal.pause()
asyncio.run(hold())
"""


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_waiter_gets_the_lock_when_the_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    order: list[str] = []

    async def wait() -> None:
        async with file_lock(path, deadline=soon(10), purpose="the test"):
            order.append("waiter")

    async with file_lock(path, deadline=soon(10), purpose="the test"):
        waiter = asyncio.create_task(wait())
        with lock_if_free(path) as is_free:
            assert not is_free
        order.append("holder")
    await asyncio.wait_for(waiter, 10)

    assert order == ["holder", "waiter"]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds the lock at `tmp_path / "lock"` until it dies."""
    command = [sys.executable, "-c", HOLDER, str(Path(__file__).parents[3]), str(tmp_path / "lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


async def test_deadline_says_who_holds_the_lock(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    with pytest.raises(DeadlineExceeded, match=rf"the test.*process {holder.pid} on "):
        async with file_lock(tmp_path / "lock", deadline=soon(0.2), purpose="the test"):
            pass


async def test_death_of_the_holder_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    holder.kill()

    async with file_lock(tmp_path / "lock", deadline=soon(10), purpose="the test"):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


async def test_free_lock_is_taken_without_waiting(tmp_path: Path) -> None:
    with lock_if_free(tmp_path / "lock") as first, lock_if_free(tmp_path / "lock") as second:
        assert (first, second) == (True, False)
