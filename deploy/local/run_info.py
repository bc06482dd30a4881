"""What a running local mesh says of itself in `run.json`, so that other commands find it: addresses and processes.

The file is written whole at each change and removed at a clean end. Whether the mesh runs is not in the file but in
the lock of its folder: after a `kill -9` the file is still there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.state_dir import StateDir


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """One service: its process, its addresses ("host:port"), and when it was started (seconds since the epoch)."""

    name: str
    state: str
    pid: int | None
    started_at: float | None
    restarts: int
    grpc_address: str
    metrics_address: str
    http_address: str | None
    log: str


@dataclass(frozen=True, slots=True)
class DeploymentInfo:
    """One deployment, and why it is not served when it is not."""

    name: str
    model_format: str
    failure: str | None


@dataclass(frozen=True, slots=True)
class RunInfo:
    """A local mesh: the process that supervises it, the URL of its gateway, its services and deployments."""

    pid: int
    started_at: float
    gateway_url: str
    services: tuple[ServiceInfo, ...]
    deployments: tuple[DeploymentInfo, ...]


def write_run_info(path: Path, info: RunInfo) -> None:
    """Replace the file at `path` by `info`, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(dataclasses.asdict(info), file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def read_run_info(state_dir: StateDir) -> RunInfo | None:
    """The mesh that runs with this state directory; None when none does."""
    if not state_dir.is_locked():
        return None
    try:
        return _decoded(json.loads(state_dir.run_file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError):
        # The mesh runs and has not written the file yet, or the file is another version's.
        return None


def _decoded(record: Any) -> RunInfo:
    return RunInfo(
        pid=record["pid"],
        started_at=record["started_at"],
        gateway_url=record["gateway_url"],
        services=tuple(ServiceInfo(**service) for service in record["services"]),
        deployments=tuple(DeploymentInfo(**deployment) for deployment in record["deployments"]),
    )
