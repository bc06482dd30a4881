"""`meshserve status`: does each service answer, and each model; exit status 1 when one does not.

Health is asked of the services themselves (gRPC health), now; what `up` wrote down tells only where they are.
"""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import typer
from rich.table import Table

from cli import options
from cli.catalog import READY, ServedModel, served_models
from cli.failure import Failure
from cli.gateway_client import GatewayClient
from cli.models import models_table
from cli.target import Target, find_target
from cli.terminal import output_console
from deploy.local.run_info import ServiceInfo
from deploy.local.state_dir import DEFAULT

SERVING = "serving"


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as it answers now. `uptime_s` and `pid` are None where no local mesh knows them."""

    name: str
    health: str
    address: str
    pid: int | None = None
    uptime_s: float | None = None
    restarts: int | None = None


def status(
    gateway: options.Gateway = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 5.0,
    as_json: options.AsJson = False,
) -> None:
    """Show the health of every service and model.

    The exit status is 1 when something does not serve.

    Examples:

      meshserve status

      meshserve status --json | jq .services

      until meshserve status; do sleep 1; done
    """
    target = find_target(gateway, state_dir)
    services = _services(target, timeout)
    found, trouble = _models(target, timeout)
    if not target.services and trouble is not None:
        raise trouble
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "services": [dataclasses.asdict(each) for each in services],
                    "models": [dataclasses.asdict(model) for model in found],
                },
                indent=2,
            )
        )
    else:
        _show(services, found, trouble)
    if (
        trouble is not None
        or any(each.health != SERVING for each in services)
        or any(model.state != READY for model in found)
    ):
        raise typer.Exit(1)


def _services(target: Target, timeout_s: float) -> list[ServiceStatus]:
    if not target.services:
        return [ServiceStatus("gateway", SERVING, target.url)]
    with ThreadPoolExecutor(len(target.services)) as pool:
        return list(pool.map(lambda service: _asked(service, timeout_s), target.services))


def _asked(service: ServiceInfo, timeout_s: float) -> ServiceStatus:
    uptime_s = time.time() - service.started_at if service.started_at and service.pid else None
    return ServiceStatus(
        name=service.name,
        health=health_of(service.grpc_address, timeout_s),
        address=service.http_address or service.grpc_address,
        pid=service.pid,
        uptime_s=uptime_s,
        restarts=service.restarts,
    )


def health_of(address: str, timeout_s: float) -> str:
    """ "serving", "not serving", or "no answer"."""
    # Imported here: other verbs start faster without gRPC.
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError:
            return "no answer"
    return SERVING if response.status == health_pb2.HealthCheckResponse.SERVING else "not serving"


def _models(target: Target, timeout_s: float) -> tuple[list[ServedModel], Failure | None]:
    try:
        with GatewayClient(target.url, timeout_s=timeout_s) as client:
            return served_models(client), None
    except Failure as failure:
        return [], failure


def _show(services: list[ServiceStatus], found: list[ServedModel], trouble: Failure | None) -> None:
    console = output_console()
    table = Table(
        "service", "health", "address", "pid", "up", "restarts", box=None, header_style="bold", pad_edge=False
    )
    for each in services:
        colour = "green" if each.health == SERVING else "red"
        known = (each.pid, _duration(each.uptime_s), each.restarts)
        cells = ("" if value is None else str(value) for value in known)
        table.add_row(each.name, f"[{colour}]{each.health}[/]", each.address, *cells)
    console.print(table)
    console.print()
    console.print(models_table(found) if trouble is None else f"models: {trouble.what}")


def _duration(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
