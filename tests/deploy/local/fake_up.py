"""A supervisor of fake services in a process of its own, to be killed by tests.

    python -m tests.deploy.local.fake_up STATE_DIR PORT…

Prints the pid of each service as it starts, then "ready".
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from deploy.local.commands import ServiceSpec
from deploy.local.events import Event, MeshReady, ServiceStarted
from deploy.local.process import Command
from deploy.local.state_dir import StateDir
from deploy.local.supervisor import Supervisor
from deploy.local.up import supervise

FAKE_SERVICE = Path(__file__).with_name("fake_service.py")


def spec(state: StateDir, name: str, port: str) -> ServiceSpec:
    ready_file = state.ready_file(name)
    flags = ("--name", name, "--port", port, "--ready-file", str(ready_file), "--grandchild")
    return ServiceSpec(
        name=name,
        command=Command((sys.executable, str(FAKE_SERVICE), *flags)),
        grpc_address=f"127.0.0.1:{port}",
        metrics_address="127.0.0.1:1",
        ready_file=ready_file,
        log_path=state.log_file(name),
    )


def report(event: Event) -> None:
    match event:
        case ServiceStarted(_, pid):
            print(pid, flush=True)  # noqa: T201
        case MeshReady():
            print("ready", flush=True)  # noqa: T201


def main() -> None:
    # As a terminal would start it: under nohup, as a test run may be, it would rightly ignore this signal.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    state = StateDir(Path(sys.argv[1]))
    specs = [spec(state, name, port) for name, port in zip(("registry", "gateway"), sys.argv[2:], strict=True)]
    with state.locked():
        asyncio.run(supervise(Supervisor(specs, state, [], "http://127.0.0.1:1", report)))


if __name__ == "__main__":
    main()
