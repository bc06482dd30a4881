"""The supervisor tells each state once, in order. `test_client` checks what callers see of deaths and restarts."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact
from predictor.llm.inspection import Inspection
from predictor.llm.messages import EngineSpec, Ping, Report
from predictor.llm.outputs import EngineStats
from predictor.llm.settings import EngineSettings
from predictor.llm.supervisor import EngineState, EngineSupervisor

FACTORY = "tests.predictor.llm.hash_model:load"
SETTINGS = EngineSettings(kv_cache_bytes=2**20, restart_delay_s=0.01)


class Watched:
    """A supervisor whose reports and states are kept."""

    def __init__(self, path: Path, settings: EngineSettings = SETTINGS) -> None:
        self.reports: list[Report | Inspection] = []
        self.states: list[EngineState] = []
        self.supervisor = EngineSupervisor(EngineSpec(path, settings, FACTORY), self.reports.append, self.states.append)

    async def start(self) -> None:
        await self.supervisor.start(lambda stage, share: None)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  the state of another process
                await asyncio.sleep(0.005)


async def test_a_life_from_start_to_stop() -> None:
    watched = Watched(Path("hash"))

    await watched.start()
    watched.supervisor.send(Ping())
    await watched.until(lambda: len(watched.reports) >= 1)
    await watched.supervisor.stop()

    assert watched.states == [EngineState.LOADING, EngineState.READY, EngineState.STOPPED]
    assert watched.supervisor.pid is None
    assert watched.supervisor.info is not None


async def test_a_second_start_is_our_own_mistake() -> None:
    watched = Watched(Path("hash"))
    await watched.start()

    with pytest.raises(RuntimeError, match="started already"):
        await watched.start()

    await watched.supervisor.stop()


async def test_an_engine_can_be_started_again_after_a_stop() -> None:
    watched = Watched(Path("hash"))
    for _ in range(2):
        await watched.start()
        await watched.supervisor.stop()

    assert watched.states == [EngineState.LOADING, EngineState.READY, EngineState.STOPPED] * 2


async def test_a_failed_load_ends_the_start() -> None:
    watched = Watched(Path("corrupt"))

    with pytest.raises(CorruptArtifact):
        await watched.start()

    assert watched.states == [EngineState.LOADING, EngineState.DEAD, EngineState.STOPPED]


async def test_a_model_that_became_corrupt_is_tried_again_until_it_loads(tmp_path: Path) -> None:
    path = tmp_path / "model"
    watched = Watched(path)
    await watched.start()
    path.with_name("model.corrupt").touch()
    assert watched.supervisor.pid is not None
    os.kill(watched.supervisor.pid, signal.SIGKILL)
    await watched.until(lambda: watched.states.count(EngineState.DEAD) >= 3)

    path.with_name("model.corrupt").unlink()

    await watched.until(lambda: watched.supervisor.state is EngineState.READY)
    await watched.supervisor.stop()


async def test_a_stop_while_it_restarts_leaves_nothing() -> None:
    watched = Watched(Path("hash"))
    await watched.start()
    assert watched.supervisor.pid is not None
    os.kill(watched.supervisor.pid, signal.SIGKILL)
    await watched.until(lambda: watched.supervisor.state is EngineState.LOADING)

    await watched.supervisor.stop()

    assert watched.supervisor.pid is None
    assert watched.states[-1] is EngineState.STOPPED


async def test_what_an_engine_says_after_it_was_given_up_is_passed_over() -> None:
    """One that hung in a long step may finish it before it is killed; its counters were added up already."""
    watched = Watched(Path("hash"))
    await watched.start()
    pid = watched.supervisor.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await watched.until(lambda: watched.supervisor.state is EngineState.DEAD)
    num_reports = len(watched.reports)

    watched.supervisor._on_message(Report((), EngineStats(num_steps=9)))

    assert len(watched.reports) == num_reports
    await watched.supervisor.stop()


async def test_between_two_lives_there_is_no_process() -> None:
    watched = Watched(Path("hash"), replace(SETTINGS, restart_delay_s=30.0))
    await watched.start()
    assert watched.supervisor.pid is not None
    os.kill(watched.supervisor.pid, signal.SIGKILL)

    await watched.until(lambda: watched.supervisor.pid is None)

    assert watched.supervisor.state is EngineState.DEAD
    await watched.supervisor.stop()
