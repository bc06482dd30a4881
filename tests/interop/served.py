"""A mesh for foreign clients: registry, predictor, transformer, explainer and gateway as processes, on free ports.

What it serves is the caller's to say. Which clients come, and what they ask, is not known here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
START_S = 90.0
STOP_S = 20.0
# Two cores are shared by all of them, and by the client.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

Deployment = Mapping[str, object]


@dataclass
class Served:
    """The running services, by name."""

    folder: Path
    models: tuple[str, ...]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def addresses(self, service: str) -> dict[str, str]:
        """`grpc_address`, `metrics_address` and, of the gateway, `http_address`; empty until it listens."""
        try:
            found: dict[str, str] = json.loads((self.folder / service / "ready.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    @property
    def url(self) -> str:
        return f"http://{self.addresses('gateway')['http_address']}"

    def grpc_address(self, service: str) -> str:
        return self.addresses(service)["grpc_address"]

    def log(self, service: str) -> str:
        return (self.folder / service / "log.txt").read_text(errors="replace")

    def is_ready(self) -> bool:
        """Whether all models answer through the gateway. Raises AssertionError when a service has ended."""
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} ended with {process.returncode}:\n{self.log(name)[-3000:]}"
        try:
            return all(httpx.get(f"{self.url}/v2/models/{model}/ready").status_code == 200 for model in self.models)
        except httpx.HTTPError:
            return False


@contextmanager
def served(
    folder: Path, deployments: Sequence[Deployment], predictor: str = "tests.interop.identity_predictor"
) -> Iterator[Served]:
    """Start the mesh, wait until all models are ready, and end it afterwards, whatever happens.

    predictor: the module that is run as the predictor.
    """
    file = folder / "deployments.yaml"
    file.write_text(json.dumps({"deployments": list(deployments)}))
    mesh = Served(folder, tuple(str(deployment["name"]) for deployment in deployments))
    try:
        _start(mesh, "registry", "--deployments", str(file))
        until(lambda: bool(mesh.addresses("registry")), START_S, "the registry listens")
        registry = ("--registry", mesh.grpc_address("registry"))
        _start(mesh, "predictor", *registry, "--deployments", str(file), module=predictor)
        _start(mesh, "transformer", *registry)
        _start(mesh, "explainer", *registry)
        _start(mesh, "gateway", *registry, "--http-port", "0")
        until(lambda: bool(mesh.addresses("gateway")) and mesh.is_ready(), START_S, "all models are ready")
        yield mesh
    finally:
        _stop(mesh)


def until(condition: Callable[[], bool], within_s: float, what: str) -> None:
    """Return once `condition` is true; fail after `within_s` seconds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(0.05)


def _start(mesh: Served, name: str, *flags: str, module: str | None = None) -> None:
    folder = mesh.folder / name
    folder.mkdir()
    command = [
        *(sys.executable, "-m", module or name, "--grpc-port", "0", "--metrics-port", "0", "--drain-s", "0"),
        *("--grace-s", "5", "--ready-file", str(folder / "ready.json"), "--state-dir", str(folder / "state"), *flags),
    ]
    with (folder / "log.txt").open("wb") as log:
        mesh.processes[name] = subprocess.Popen(
            command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **ONE_THREAD}
        )


def _stop(mesh: Served) -> None:
    # The gateway ends first, the registry last.
    for process in reversed(mesh.processes.values()):
        process.send_signal(signal.SIGTERM)
    for process in reversed(mesh.processes.values()):
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
