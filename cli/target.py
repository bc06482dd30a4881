"""Which mesh a command talks to: the one that is named, else the one that `up` runs here, else the default address."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cli.failure import Failure
from deploy.local.run_info import RunInfo, ServiceInfo, read_run_info
from deploy.local.state_dir import StateDir

DEFAULT_URL = "http://127.0.0.1:8080"


@dataclass(frozen=True, slots=True)
class Target:
    """The gateway's URL, and what is known of the local mesh behind it (None: it is not of this state directory)."""

    url: str
    run_info: RunInfo | None

    @property
    def grpc_address(self) -> str:
        """host:port of the gateway's gRPC front; by convention the port after the HTTP one where nobody says it."""
        for service in self.services:
            if service.name == "gateway":
                return service.grpc_address
        parts = urlsplit(self.url)
        return f"{parts.hostname}:{(parts.port or 80) + 1}"

    @property
    def services(self) -> tuple[ServiceInfo, ...]:
        return () if self.run_info is None else self.run_info.services


def find_target(gateway: str | None, state_dir: Path) -> Target:
    """The mesh that `--gateway` and `--state-dir` mean. Raises Failure for what is no URL."""
    if gateway is None:
        run_info = read_run_info(StateDir(state_dir.absolute()))
        return Target(run_info.gateway_url if run_info else DEFAULT_URL, run_info)
    url = gateway if "://" in gateway else f"http://{gateway}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_valid_port(url):
        raise Failure(f"--gateway '{gateway}' is not a URL", f"write it like {DEFAULT_URL}")
    return Target(url.rstrip("/"), None)


def _has_valid_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False
