"""A mesh of fake services: real processes under the real supervisor, and a record of what it reports."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from deploy.local.backoff import BackoffPolicy
from deploy.local.commands import ServiceSpec
from deploy.local.events import Event, MeshReady
from deploy.local.process import Command
from deploy.local.run_info import DeploymentInfo
from deploy.local.silence import SilencePolicy
from deploy.local.state_dir import StateDir
from deploy.local.supervisor import Patience, Supervisor

FAKE_SERVICE = Path(__file__).with_name("fake_service.py")
E = TypeVar("E")


class Record:
    """All events so far, and waiting for one that is still to come."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
        async with asyncio.timeout(timeout_s):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def until_ready(self) -> None:
        await self.until(lambda: bool(self.of(MeshReady)))


class FakeMesh:
    """Builds specs of fake services and runs supervisors over them."""

    def __init__(self, folder: Path) -> None:
        self.state = StateDir(folder / "state")
        self.record = Record()

    def spec(
        self,
        name: str,
        *flags: str,
        behaviour: str = "serve",
        models: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        stop_wave: int = 0,
    ) -> ServiceSpec:
        port = free_port()
        ready_file = self.state.ready_file(name)
        arguments = (
            *(sys.executable, str(FAKE_SERVICE), "--name", name, "--port", str(port)),
            *("--ready-file", str(ready_file), "--behaviour", behaviour),
            *(part for model in models for part in ("--model", model)),
            *flags,
        )
        return ServiceSpec(
            name=name,
            command=Command(arguments),
            grpc_address=f"127.0.0.1:{port}",
            metrics_address="127.0.0.1:1",
            ready_file=ready_file,
            log_path=self.state.log_file(name),
            after=after,
            health_names=models,
            stop_wave=stop_wave,
        )

    @asynccontextmanager
    async def supervised(
        self,
        *specs: ServiceSpec,
        start_s: float = 30.0,
        stop_s: float = 30.0,
        reminder_s: float = 0.2,
        impatient_s: float = 0.0,
        backoff: BackoffPolicy | None = None,
        silence: SilencePolicy | None = None,
    ) -> AsyncIterator[Supervisor]:
        """A running supervisor; stopped in order at the end, with its error raised if it has one."""
        self.state.path.mkdir(parents=True, exist_ok=True)
        models = [model for spec in specs for model in spec.health_names]
        patience = Patience(
            start_s,
            stop_s,
            reminder_s,
            impatient_s,
            backoff=backoff or BackoffPolicy(first_s=0.05),
            silence=silence or SilencePolicy(lasting_s=0.3),
        )
        supervisor = Supervisor(
            specs,
            self.state,
            [DeploymentInfo(model, "llm", None) for model in models],
            "http://127.0.0.1:1",
            self.record,
            patience=patience,
        )
        running = asyncio.create_task(supervisor.run())
        # A supervisor that ends by itself ends the waiting of the test too.
        running.add_done_callback(lambda _: self.record._news.set())
        try:
            yield supervisor
        finally:
            supervisor.request_stop()
            await running


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def fake_mesh(tmp_path: Path) -> FakeMesh:
    return FakeMesh(tmp_path)
