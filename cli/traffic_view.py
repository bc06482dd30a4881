"""How a deployment's traffic looks: a table of its versions and what else is set, or the same as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any  # Any: JSON

import typer
from rich.table import Table

from cli.terminal import output_console

if TYPE_CHECKING:
    from mesh.v1.registry_pb2 import Deployment, MeshSnapshot


def print_traffic(deployment: Deployment, snapshot: MeshSnapshot, *, as_json: bool) -> None:
    """Print it; `snapshot` tells which replicas have what."""
    described = describe_traffic(deployment, snapshot)
    if as_json:
        typer.echo(json.dumps(described, indent=2))
        return
    console = output_console()
    console.print(_table(described))
    for line in _lines(described):
        console.print(line, highlight=False)


def describe_traffic(deployment: Deployment, snapshot: MeshSnapshot) -> dict[str, Any]:
    """JSON-ready: every field is there. percent: of the requests that name no version and match no rule."""
    # Imported here: other verbs start faster without the messages.
    from cli.rollout import ready_replicas
    from mesh.deployments import versions_of

    traffic = deployment.traffic
    deployed = versions_of(deployment)[0]
    shares = {deployed: 100 - traffic.canary.percent, traffic.canary.model_version: traffic.canary.percent}
    copies = {traffic.mirror.model_version: traffic.mirror.percent}
    versions = [
        {
            "version": version,
            "role": _role(deployment, version),
            "percent": shares.get(version, 0),
            "mirror_percent": copies.get(version, 0),
            "ready_replicas": count,
        }
        for version, count in ready_replicas(snapshot, deployment).items()
    ]
    return {
        "name": deployment.name,
        "generation": deployment.generation,
        "versions": versions,
        "rules": [
            {"header": rule.header, "value": rule.value, "tag": rule.tag, "version": rule.model_version}
            for rule in traffic.rules
        ],
        "sticky_header": traffic.sticky_header or None,
        "fallback": traffic.fallback or None,
        "previous_version": traffic.previous_version or None,
    }


def _role(deployment: Deployment, version: str) -> str:
    traffic = deployment.traffic
    if version == deployment.predictor.model_version:
        return "deployed"
    if version == traffic.canary.model_version:
        return "canary"
    if version == traffic.mirror.model_version:
        return "mirror"
    return "previous" if version == traffic.previous_version else ""


def _table(described: dict[str, Any]) -> Table:
    table = Table(
        "version", "role", "requests", "copies", "ready replicas", box=None, header_style="bold", pad_edge=False
    )
    for one in described["versions"]:
        copies = f"{one['mirror_percent']} %" if one["mirror_percent"] else ""
        count = one["ready_replicas"]
        replicas = f"[{'green' if count else 'red'}]{count}[/]"
        table.add_row(one["version"], one["role"], f"{one['percent']} %", copies, replicas)
    return table


def _lines(described: dict[str, Any]) -> list[str]:
    lines = []
    for rule in described["rules"]:
        matched = f"tag {rule['tag']}" if rule["tag"] else f"header {rule['header']}"
        value = f" = {rule['value']}" if rule["value"] else ""
        lines.append(f"rule: {matched}{value} -> version {rule['version']}")
    if described["sticky_header"]:
        lines.append(f"sessions: by header {described['sticky_header']}")
    if described["fallback"]:
        lines.append(f"fallback: {described['fallback']}")
    return lines
