"""One life of an engine process: what it says arrives in order, and its end last."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from predictor.llm.engine_process import EngineProcess
from predictor.llm.messages import Add, EngineSpec, Loading, Message, Ping, Ready, Report, Stop
from predictor.llm.settings import EngineSettings
from tests.predictor.llm.engines import generation

SPEC = EngineSpec(Path("hash"), EngineSettings(kv_cache_bytes=2**20), "tests.predictor.llm.hash_model:load")


class Life:
    """A process and all that was heard of it; None stands for its end."""

    def __init__(self, spec: EngineSpec = SPEC) -> None:
        self.heard: asyncio.Queue[Message | None] = asyncio.Queue()
        self.process = EngineProcess(spec, self.heard.put_nowait, lambda: self.heard.put_nowait(None))

    async def next(self) -> Message | None:
        return await asyncio.wait_for(self.heard.get(), 20)


@pytest.fixture
async def life() -> AsyncIterator[Life]:
    life = Life()
    while not isinstance(await life.next(), Ready):
        pass
    yield life
    await life.process.end()


async def test_messages_come_in_order_and_the_end_last() -> None:
    life = Life()
    life.process.send(Stop())

    heard = [await life.next() for _ in range(4)]

    assert [type(message) for message in heard] == [Loading, Loading, Ready, type(None)]
    assert await life.process.wait_exited(20)
    assert await life.process.end() == 0


async def test_a_silent_engine_does_not_hold_up_the_loop(life: Life) -> None:
    assert not await life.process.wait_exited(0.01)


async def test_a_full_pipe_does_not_hold_up_the_loop(life: Life) -> None:
    psutil.Process(life.process.pid).suspend()

    for index in range(200):  # far more than a pipe holds
        life.process.send(Add(generation(f"{index}", tuple(range(200)) * 10, 1), 0.0))

    psutil.Process(life.process.pid).resume()
    assert isinstance(await life.next(), Report)


async def test_the_end_leaves_no_process_no_thread_and_no_open_pipe() -> None:
    num_threads, num_fds = threading.active_count(), psutil.Process().num_fds()
    life = Life()
    pid = life.process.pid
    life.process.send(Ping())

    statuses = await asyncio.gather(life.process.end(), life.process.end())

    assert statuses == [-9, -9]
    assert not psutil.pid_exists(pid)
    assert psutil.Process().num_fds() <= num_fds
    assert sum(thread.name.startswith("engine-pipe") for thread in threading.enumerate()) == 0
    assert threading.active_count() <= num_threads + 1  # the loop's pool may have grown
