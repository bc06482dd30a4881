"""The two hops of the comparison, each in front of a backend of its own, all up at the same time."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.oip.message import MODEL, MODEL_INFER, SMALL
from bench.server_process import CannotStart, Command, free_port, spawn, stop, tail

START_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Hop:
    """A server in front of a backend. pid: of the hop's process. direct_port: the backend's."""

    name: str
    pid: int
    port: int
    direct_port: int


@contextmanager
def running(folder: Path) -> Iterator[tuple[Hop, Hop]]:
    """The bare byte proxy and the gateway, once both answer. Raises CannotStart."""
    bare, proxy, predictor, http, gateway = (free_port() for _ in range(5))
    endpoints = folder / "endpoints.yaml"
    endpoints.write_text(
        f"endpoints: {{predictor: ['127.0.0.1:{predictor}']}}\n"
        f"deployments: [{{name: {MODEL}, predictor: {{model_format: llm, storage_uri: 'file://{folder}'}}}}]\n",
        encoding="utf-8",
    )
    commands = {
        "backend": _python("bench.gateway.backend", "bare", str(bare)),
        "proxy": _python("bench.gateway.byte_proxy", str(proxy), str(bare)),
        "predictor": _python("bench.gateway.backend", "mesh", *_service(folder, predictor)),
        "gateway": _python(
            "gateway", *_service(folder, gateway), "--http-port", str(http), "--endpoints", str(endpoints)
        ),
    }
    with ExitStack() as ending:
        processes: dict[str, subprocess.Popen[bytes]] = {}
        for name, command in commands.items():
            processes[name] = spawn(command, folder / f"{name}.log")
            ending.callback(stop, processes[name])
        for name, port in (("proxy", proxy), ("gateway", gateway)):
            _wait(name, port, folder / f"{name}.log")
        yield (
            Hop("bare byte proxy", processes["proxy"].pid, proxy, bare),
            Hop("gateway", processes["gateway"].pid, gateway, predictor),
        )


def _python(module: str, *arguments: str) -> Command:
    return Command((sys.executable, "-m", module, *arguments))


def _service(folder: Path, port: int) -> tuple[str, ...]:
    where = ("--grpc-port", str(port), "--metrics-port", "0", "--state-dir", str(folder / f"state-{port}"))
    return (*where, "--log-level", "warning", "--drain-s", "0")


def _wait(name: str, port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        while True:
            try:
                infer: Any = channel.unary_unary(MODEL_INFER)
                infer(SMALL.request, timeout=5, wait_for_ready=True)
                return
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise CannotStart(f"{name}: {error}; {tail(log)}") from error
            time.sleep(0.1)
