"""`meshserve rollback`: away with the canary, or back to the version before the last promotion."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import options
from cli.registry_client import RegistryClient, deployment_in, registry_address
from cli.target import find_target
from cli.traffic_view import print_traffic
from deploy.local.state_dir import DEFAULT


def rollback(
    name: Annotated[str, typer.Argument(help="Name of the deployment.")],
    registry: options.Registry = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 10.0,
    as_json: options.AsJson = False,
) -> None:
    """Give the canary no more requests; without one, deploy the version before the last promotion again.

    Examples:

      meshserve rollback iris

      meshserve rollback iris --json | jq .versions
    """
    from cli.rollout import check_ready, rolled_back

    client = RegistryClient(registry_address(registry, find_target(None, state_dir)), timeout_s=timeout)
    snapshot = client.snapshot()
    deployment = deployment_in(snapshot, name)
    changed = rolled_back(deployment)
    if changed.predictor != deployment.predictor:
        check_ready(snapshot, changed)
    print_traffic(client.apply(changed), snapshot, as_json=as_json)
