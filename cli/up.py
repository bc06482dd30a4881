"""`meshserve up`: the whole mesh on this machine, until Ctrl-C. The work is `deploy.local`'s; here it is shown."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli import options
from cli.up_lines import LineReporter
from cli.up_live import LiveReporter
from deploy.local.state_dir import DEFAULT


def up(
    deployments: Annotated[
        Path | None,
        typer.Option("--deployments", "-f", metavar="FILE", help="What to serve. Default: smollm2 and iris."),
    ] = None,
    http_port: Annotated[
        int | None, typer.Option("--http-port", min=0, max=65535, help="Port of the gateway; 0 picks a free one.")
    ] = None,
    port_offset: Annotated[
        int, typer.Option("--port-offset", help="Add this to all default ports (8080, 8081, 8090 …).")
    ] = 0,
    free_ports: Annotated[bool, typer.Option("--free-ports", help="Pick a free port for everything.")] = False,
    host: Annotated[
        str, typer.Option("--host", help="Address of the gateway; 0.0.0.0 opens it to other machines.")
    ] = "127.0.0.1",
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    state_dir: options.StateDirectory = DEFAULT,
) -> None:
    """Run the whole mesh on this machine until Ctrl-C.

    Logs, models and addresses are kept in the state directory. A service that crashes is started again.

    Examples:

      meshserve up

      meshserve up --deployments my-models.yaml

      meshserve up --port-offset 100 --state-dir /tmp/second-mesh
    """
    # Imported here: the other verbs start twice as fast without gRPC and the supervisor.
    from deploy.local.up import UpOptions
    from deploy.local.up import up as run_mesh

    console = Console()
    chosen = UpOptions(
        state_dir=state_dir,
        deployments=deployments,
        host=host,
        http_port=http_port,
        port_offset=port_offset,
        free_ports=free_ports,
        log_level=log_level,
    )
    with LiveReporter(console) if console.is_terminal else LineReporter() as reporter:
        asyncio.run(run_mesh(chosen, reporter))
