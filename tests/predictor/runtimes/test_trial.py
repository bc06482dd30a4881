"""A trial's process may die, hang, or want too much: each is the file's fault, and said so."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from mesh.errors import CorruptArtifact
from predictor.runtimes.trial import TrialLimits, try_loading

TIGHT = TrialLimits(memory_bytes=64 << 20, memory_factor=1, timeout_s=1, timeout_s_per_gib=0)


# What a trial's process may be asked to run; it imports them from here.


def takes_memory(path: Path) -> object:
    return bytearray(8 << 20)


def dies(path: Path) -> object:
    os.kill(os.getpid(), signal.SIGSEGV)
    return None


def leaves(path: Path) -> object:
    os._exit(3)


def wants_memory(path: Path) -> object:
    return bytearray(1 << 30)


def computes_for_ever(path: Path) -> object:
    while True:
        pass


def sleeps(path: Path) -> object:
    time.sleep(600)
    return None


def refuses(path: Path) -> object:
    raise CorruptArtifact(f"{path.name} is " + "bad " * 1000)


def fails(path: Path) -> object:
    raise ZeroDivisionError


def prints(path: Path) -> object:
    os.write(1, b'{"error": "printed"}')
    return None


def has_no_core_file(path: Path) -> object:
    assert resource.getrlimit(resource.RLIMIT_CORE)[0] == 0
    return None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "model.bin").write_bytes(b"x")
    return tmp_path / "model.bin"


def reader(name: str) -> str:
    return f"tests.predictor.runtimes.test_trial:{name}"


async def test_what_loads_is_measured(file: Path) -> None:
    assert 8 << 20 <= await try_loading(reader("takes_memory"), file) < 64 << 20


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dies", r"model\.bin is malformed: it ends the process that loads it \(SIGSEGV\)"),
        ("leaves", r"ends the process that loads it \(exit status 3\)"),
        ("wants_memory", r"model\.bin wants more memory than a file of its size may"),
        ("computes_for_ever", r"model\.bin does not load within 1 s of computing"),
        ("sleeps", r"model\.bin does not load within 3 s"),
        ("refuses", r"model\.bin is bad bad"),
        ("fails", r"model\.bin cannot be read \(ZeroDivisionError\)"),
    ],
)
async def test_what_does_not_load_is_called_corrupt(file: Path, name: str, sentence: str) -> None:
    with pytest.raises(CorruptArtifact, match=sentence) as refusal:
        await try_loading(reader(name), file, TIGHT)

    assert len(refusal.value.message) <= 1000
    assert str(file.parent) not in refusal.value.message


@pytest.mark.parametrize("name", ["prints", "has_no_core_file"])
async def test_a_library_may_print_and_leaves_no_core_file(file: Path, name: str) -> None:
    assert await try_loading(reader(name), file, TIGHT) >= 0


async def test_a_cancelled_trial_leaves_no_process(file: Path) -> None:
    task = asyncio.create_task(try_loading(reader("sleeps"), file))
    async with asyncio.timeout(60):
        while not (trials := trials_of(file)):  # noqa: ASYNC110 -- a process has no event
            await asyncio.sleep(0.01)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    # The trial was waited for, so nothing is left to wait for here.
    assert [trial for trial in trials if trial.is_running()] == []


def trials_of(file: Path) -> list[psutil.Process]:
    """Children of this process that try to load `file`."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if str(file) in child.cmdline():
                found.append(child)
    return found


def test_limits_grow_with_the_file() -> None:
    limits = TrialLimits()

    assert limits.memory_for(1 << 30) == limits.memory_for(0) + 32 * (1 << 30)
    assert limits.cpu_s_for(2 << 30) == limits.cpu_s_for(0) + 600
