"""`meshserve models`: what is served, in which version and state."""

from __future__ import annotations

import dataclasses
import json

import typer
from rich.table import Table

from cli import options
from cli.catalog import READY, ServedModel, served_models
from cli.gateway_client import GatewayClient
from cli.target import find_target
from cli.terminal import output_console
from deploy.local.state_dir import DEFAULT


def models(
    gateway: options.Gateway = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 30.0,
    as_json: options.AsJson = False,
) -> None:
    """List the models with version, state and format.

    Examples:

      meshserve models

      meshserve models --json | jq '.[] | select(.state != "READY")'
    """
    with GatewayClient(find_target(gateway, state_dir).url, timeout_s=timeout) as client:
        found = served_models(client)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(model) for model in found], indent=2))
    else:
        output_console().print(models_table(found))


def models_table(found: list[ServedModel]) -> Table:
    """One row a model; why it is not ready stands beside its state."""
    table = Table("model", "version", "state", "format", box=None, header_style="bold", pad_edge=False)
    for model in found:
        colour = "green" if model.state == READY else "yellow" if model.state == "LOADING" else "red"
        state = f"[{colour}]{model.state.lower()}[/]" + (f" ({model.reason})" if model.reason else "")
        table.add_row(model.name, model.version, state, model.platform)
    return table
