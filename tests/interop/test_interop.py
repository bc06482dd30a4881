"""Stock clients of KServe, Triton, MLServer and Node against the gateway, and against the predictor directly.

Each client runs the scenarios in a process and an environment of its own; here what it saw is held against them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.interop import environments
from tests.interop.expectations import mismatch
from tests.interop.scenarios import Scenario, all_scenarios
from tests.interop.served import Served

DRIVERS = Path(__file__).with_name("drivers")
DRIVE_S = 110.0
SCENARIOS = all_scenarios()


@dataclass(frozen=True)
class Client:
    """A foreign client. least: scenarios that it must be able to run."""

    name: str
    environment: str
    driver: tuple[str, ...]
    least: int
    is_http: bool = False

    def command(self, folder: Path) -> list[str]:
        script, *arguments = self.driver
        if self.environment == "node":
            return ["node", str(DRIVERS / script), str(folder), *arguments]
        return [str(environments.python_of(folder)), str(DRIVERS / script), *arguments]


CLIENTS = (
    Client("tritonclient.grpc", "mlserver", ("triton.py", "grpc"), least=70),
    Client("tritonclient.grpc.aio", "mlserver", ("triton.py", "grpc_aio"), least=70),
    Client("tritonclient.http", "mlserver", ("triton.py", "http"), least=55, is_http=True),
    Client("tritonclient.http.aio", "mlserver", ("triton.py", "http_aio"), least=55, is_http=True),
    Client("kserve grpc", "kserve", ("kserve_clients.py", "grpc"), least=40),
    Client("kserve rest", "kserve", ("kserve_clients.py", "rest"), least=40, is_http=True),
    Client("mlserver grpc", "mlserver", ("mlserver_codecs.py", "grpc"), least=40),
    Client("mlserver rest", "mlserver", ("mlserver_codecs.py", "rest"), least=30, is_http=True),
    Client("grpc-js", "node", ("grpc_js.mjs",), least=80),
)
RUNS = [
    (client, service) for service in ("gateway", "predictor") for client in CLIENTS
    if service == "gateway" or not client.is_http
]  # fmt: skip

Drive = Callable[[Client, str], dict[str, Any]]


@pytest.fixture(scope="session")
def drive(mesh: Served) -> Drive:
    """Runs a client against a service, once; gives what it saw, by scenario."""
    seen: dict[tuple[str, str], dict[str, Any]] = {}

    def run(client: Client, service: str) -> dict[str, Any]:
        if (client.name, service) not in seen:
            seen[client.name, service] = _driven(client, mesh, service)
        return seen[client.name, service]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("client", "service"), RUNS, ids=lambda value: getattr(value, "name", value))
def test_client_sees_what_it_must(client: Client, service: str, drive: Drive) -> None:
    seen = drive(client, service)

    wrong = {scenario.name: words for scenario in SCENARIOS if (words := _wrong(scenario, seen[scenario.name]))}
    assert not wrong, "\n".join(f"{name}: {words}" for name, words in wrong.items())
    could = [name for name, found in seen.items() if "cannot" not in found]
    assert len(could) >= client.least, sorted({found["cannot"] for found in seen.values() if "cannot" in found})


def _driven(client: Client, mesh: Served, service: str) -> dict[str, Any]:
    try:
        folder = environments.ready(client.environment)
    except environments.CannotInstall as error:
        pytest.skip(str(error))
    plan = {
        "grpc": mesh.grpc_address(service),
        "url": mesh.url if client.is_http else None,
        "scenarios": [scenario.to_json() for scenario in SCENARIOS],
    }
    done = subprocess.run(
        client.command(folder), input=json.dumps(plan), capture_output=True, text=True, timeout=DRIVE_S, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def _wrong(scenario: Scenario, seen: dict[str, Any]) -> str | None:
    """What of a scenario was not as it must be; None also for one that the client cannot run."""
    for number, (step, found) in enumerate(zip(scenario.steps, seen.get("steps", []), strict=False)):
        where = f"step {number + 1} ({step.call})"
        if words := mismatch(step.expected if step.eventually is None else step.eventually, found, where):
            return words
    return None
