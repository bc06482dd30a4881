"""`meshserve promote`: the canary becomes the deployed version, and the one before stays to go back to."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options
from cli.registry_client import RegistryClient, deployment_in, registry_address
from cli.target import find_target
from cli.traffic_view import print_traffic
from deploy.local.state_dir import DEFAULT


def promote(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    model_version: Annotated[
        str, typer.Option("--model-version", metavar="VERSION", help="Which version. Default: the canary.")
    ] = "",
    registry: options.Registry = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 10.0,
    as_json: options.AsJson = False,
) -> None:
    """Make the canary, or another version, the one that requests get.

    It is refused while no replica has that version ready: requests would be lost.

    Examples:

      meshserve promote iris

      meshserve promote iris --model-version 3
    """
    from cli.rollout import check_ready, promoted

    client = RegistryClient(registry_address(registry, find_target(None, state_dir)), timeout_s=timeout)
    snapshot = client.snapshot()
    changed = promoted(deployment_in(snapshot, name), model_version)
    check_ready(snapshot, changed)
    print_traffic(client.apply(changed), snapshot, as_json=as_json)
