"""MeshServe as a contender: the predictor alone, two of them, and behind the gateway, also with a transformer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from bench.oip.contender import Contender, Setup
from bench.oip.identity import MODEL_FORMAT
from bench.oip.message import MODEL
from bench.server_process import Command, free_port
from mesh.version import software_version

DIRECT, PAIR = "MeshServe, predictor", "MeshServe, 2 predictors"
GATEWAY, WHOLE = "MeshServe, gateway", "MeshServe, gateway and transformer"
_NOTE = "log level warning"


def contenders() -> list[Contender]:
    """The ways to MeshServe; they are always there."""
    return [
        _contender(DIRECT, lambda folder: _predictors(folder, 1), ("gRPC", "stream"), "`python -m predictor`"),
        _contender(PAIR, lambda folder: _predictors(folder, 2), ("gRPC", "stream"), "requests in equal parts to both"),
        _contender(
            GATEWAY,
            lambda folder: _mesh(folder, with_transformer=False),
            ("gRPC", "stream", "REST"),
            "gateway, predictor; requests are recorded",
        ),
        _contender(
            WHOLE,
            lambda folder: _mesh(folder, with_transformer=True),
            ("gRPC", "stream", "REST"),
            "gateway, transformer, predictor; requests are recorded",
        ),
    ]


def _contender(name: str, setup: Callable[[Path], Setup], fronts: tuple[str, ...], note: str) -> Contender:
    return Contender(name, software_version(), setup, fronts, note=f"{note}; {_NOTE}", is_ours=True)


def _predictors(folder: Path, count: int) -> Setup:
    ports = tuple(free_port() for _ in range(count))
    commands = {f"predictor {i + 1}": _predictor(folder, port) for i, port in enumerate(ports)}
    return Setup({"predictor": commands["predictor 1"]} if count == 1 else commands, ports)


def _mesh(folder: Path, *, with_transformer: bool) -> Setup:
    predictor, transformer, grpc, rest = (free_port() for _ in range(4))
    endpoints = folder / "endpoints.yaml"
    services = f"endpoints:\n  predictor: [127.0.0.1:{predictor}]\n"
    if with_transformer:
        services += f"  transformer: [127.0.0.1:{transformer}]\n"
    endpoints.write_text(services + _deployments(folder, with_transformer), encoding="utf-8")
    known = ("--endpoints", str(endpoints))
    processes = {"predictor": _predictor(folder, predictor)}
    if with_transformer:
        processes["transformer"] = _service(folder, "transformer", transformer, *known)
    processes["gateway"] = _service(folder, "gateway", grpc, *known, "--http-port", str(rest))
    return Setup(processes, (grpc,), (rest,))


def _predictor(folder: Path, port: int) -> Command:
    deployments = folder / "deployments.yaml"
    deployments.write_text(_deployments(folder, False), encoding="utf-8")
    return _service(folder, "bench.oip.identity", port, "--deployments", str(deployments))


def _service(folder: Path, module: str, port: int, *flags: str) -> Command:
    where = ("--grpc-port", str(port), "--metrics-port", "0", "--state-dir", str(folder / f"state-{port}"))
    return Command((sys.executable, "-m", module, *where, "--log-level", "warning", *flags))


def _deployments(folder: Path, with_transformer: bool) -> str:
    artifact = folder / "artifact"
    artifact.touch()
    predictor = f"{{model_format: {MODEL_FORMAT}, storage_uri: 'file://{artifact}', model_version: '1'}}"
    transformer = "    transformer: {steps: []}\n" if with_transformer else ""
    return f"deployments:\n  - name: {MODEL}\n    predictor: {predictor}\n{transformer}"
