"""A whole mesh, as a person starts it: `meshserve up` in a process of its own, on free ports, with the real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("smollm2", "iris")
SERVICES = ("registry", "predictor", "transformer", "explainer", "gateway")
START_S = 120.0


def eventually(check: Callable[[], Any], within_s: float, what: str) -> Any:
    """The first true answer of `check`, asked until `within_s` seconds have passed."""
    deadline = time.monotonic() + within_s
    while not (answer := check()):
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(0.1)
    return answer


@dataclass
class Mesh:
    """A running `meshserve up`; it serves `models`."""

    process: subprocess.Popen[bytes]
    state_dir: Path
    output: Path
    models: tuple[str, ...] = MODELS

    def info(self) -> dict[str, Any]:
        """What the mesh says of itself in run.json; empty while it does not yet."""
        try:
            found: dict[str, Any] = json.loads((self.state_dir / "run.json").read_text())
        except (OSError, ValueError):
            return {}
        return found

    def service(self, name: str) -> dict[str, Any]:
        return next(service for service in self.info()["services"] if service["name"] == name)

    @property
    def url(self) -> str:
        return str(self.info()["gateway_url"])

    @property
    def grpc_address(self) -> str:
        return str(self.service("gateway")["grpc_address"])

    def is_ready(self) -> bool:
        """Whether all models answer through the gateway."""
        if self.process.poll() is not None:
            pytest.fail(f"`meshserve up` ended with {self.process.returncode}:\n{self.output.read_text()}")
        if not self.info():
            return False
        try:
            return all(httpx.get(f"{self.url}/v2/models/{model}/ready").json().get("ready") for model in self.models)
        except (httpx.HTTPError, ValueError):
            return False

    def cli(self, *arguments: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """`meshserve …` against this mesh."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments, "--state-dir", str(self.state_dir)],
            cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip


def start(folder: Path, *flags: str, models: tuple[str, ...] = MODELS, **variables: str) -> Mesh:
    """Start a mesh in `folder` and wait until it serves `models`. flags: more of them for `meshserve up`.

    variables: of its environment, beside those of this process.
    """
    output = folder / "up.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--state-dir", str(folder / "state"), "--free-ports", *flags],
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **variables},
        )  # fmt: skip
    mesh = Mesh(process, folder / "state", output, models)
    try:
        eventually(mesh.is_ready, START_S, "the mesh serves its models")
    except BaseException:
        stop(mesh)
        raise
    return mesh


def stop(mesh: Mesh) -> None:
    """Ctrl-C, as a person does it."""
    mesh.process.send_signal(signal.SIGINT)
    try:
        mesh.process.wait(40)
    except subprocess.TimeoutExpired:
        mesh.process.kill()
        raise
