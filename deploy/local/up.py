"""A local mesh from nothing to Ctrl-C: lock the folder, choose the ports, prepare, supervise.

The composition root of `deploy.local`. What happens is told to `report`; who shows it, and how, is the caller's.
"""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.commands import client_host, service_specs
from deploy.local.events import Report
from deploy.local.ports import Ports, default_ports, free_ports, require_free
from deploy.local.prepare import place_deployments, train_missing_models
from deploy.local.run_info import DeploymentInfo
from deploy.local.seed import remove_other_deployments
from deploy.local.state_dir import DEFAULT, StateDir
from deploy.local.supervisor import Supervisor


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What a person may choose. `http_port` None is the default one, 0 a free one; `free_ports`: all are free ones."""

    state_dir: Path = DEFAULT
    deployments: Path | None = None
    host: str = "127.0.0.1"
    http_port: int | None = None
    port_offset: int = 0
    free_ports: bool = False
    log_level: str = "info"


async def up(options: UpOptions, report: Report) -> None:
    """Run a mesh until SIGINT, SIGTERM or SIGHUP. Raises MeshError, with nothing left running, when it cannot start."""
    state = StateDir(options.state_dir.absolute())
    with state.locked():
        deployments_file, deployments = place_deployments(state, options.deployments)
        ports = _ports(options)
        require_free(options.host, ports)
        names = tuple(deployment.name for deployment in deployments)
        specs = service_specs(
            state,
            ports,
            deployments_file=deployments_file,
            models=names,
            host=options.host,
            log_level=options.log_level,
        )
        registry = next(spec for spec in specs if spec.name == "registry")
        supervisor = Supervisor(
            specs,
            state,
            [DeploymentInfo(each.name, each.predictor.model_format, None) for each in deployments],
            gateway_url(options.host, ports),
            report,
            prepare=functools.partial(train_missing_models, state, deployments, report),
            after_start={"registry": functools.partial(remove_other_deployments, registry.grpc_address, names, report)},
        )
        await supervise(supervisor)


async def supervise(supervisor: Supervisor) -> None:
    """Run `supervisor` until SIGINT, SIGTERM or SIGHUP; the second of them kills what has not ended yet."""
    with _stopped_by_signals(supervisor):
        await supervisor.run()


def gateway_url(host: str, ports: Ports) -> str:
    """The URL of the gateway as a client on this machine uses it."""
    return f"http://{client_host(host)}:{ports.gateway_http}"


def _ports(options: UpOptions) -> Ports:
    if options.free_ports:
        return free_ports()
    return default_ports(options.port_offset, options.http_port)


@contextmanager
def _stopped_by_signals(supervisor: Supervisor) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    numbers = [signal.SIGINT, signal.SIGTERM]
    # `nohup meshserve up &` outlives its terminal.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, supervisor.request_stop)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
