"""What a person reads when the mesh is ready: where everything is, and three commands that work when copied."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from cli.target import DEFAULT_URL
from deploy.local.run_info import DeploymentInfo, RunInfo

_FLOWER = "[[5.1, 3.5, 1.4, 0.2]]"
_LANGUAGE_MODEL = "llm"


def ready_message(info: RunInfo, seconds: float) -> str:
    """Addresses, models and commands, as text of several lines."""
    failed = [deployment for deployment in info.deployments if deployment.failure is not None]
    lines = [
        "",
        f"The mesh is ready after {seconds:.1f} s{', but for what failed' if failed else ''}. Ctrl-C stops it.",
        "",
        *_columns(_address_rows(info)),
        "",
        *_columns([_model_row(deployment) for deployment in info.deployments]),
        "",
        "Try in another terminal:",
        *(f"  {command}" for command in commands_to_try(info, program())),
        "",
    ]
    return "\n".join(lines)


def commands_to_try(info: RunInfo, program: str) -> list[str]:
    """Three commands that suit what is served; `program` is how this command is called here."""
    served = [deployment for deployment in info.deployments if deployment.failure is None]
    language_model = next((each.name for each in served if each.model_format == _LANGUAGE_MODEL), None)
    has_iris = any(each.name == "iris" for each in served)
    gateway = "" if info.gateway_url == DEFAULT_URL else f" --gateway {info.gateway_url}"
    commands = []
    if language_model:
        commands.append(f'{program} chat{gateway} "Name the capital of France."')
    if has_iris:
        commands += [
            f"curl -s {info.gateway_url}/v1/models/iris:predict -d '{{\"instances\": {_FLOWER}}}'",
            f"{program} explain{gateway} iris --data '{_FLOWER}'",
        ]
    elif language_model:
        commands.append(f'{program} explain{gateway} {language_model} "The capital of France is"')
    spare = [f"{program} models{gateway}", f"{program} status{gateway}", f"curl -s {info.gateway_url}/v1/models"]
    return (commands + spare)[:3]


def program() -> str:
    """How the person can call this command in any terminal: by its name when every shell finds it, else by its path."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{sys.executable} -m cli"
    found = shutil.which(called.name)
    # A virtual environment that is active here need not be active there.
    is_everywhere = sys.prefix == sys.base_prefix
    if is_everywhere and found is not None and Path(found).resolve() == called.resolve():
        return called.name
    return str(called.absolute())


def _address_rows(info: RunInfo) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for service in reversed(info.services):
        http = info.gateway_url if service.http_address else ""
        rows.append((service.name, http, f"grpc://{service.grpc_address}", f"http://{service.metrics_address}/metrics"))
    return rows


def _model_row(deployment: DeploymentInfo) -> tuple[str, ...]:
    state = "ready" if deployment.failure is None else f"failed: {deployment.failure}"
    return ("model", deployment.name, deployment.model_format, state)


def _columns(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines whose columns stand under each other; a column that is empty everywhere takes no room."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
