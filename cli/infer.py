"""`meshserve infer`: rows in, a model's outputs out, over REST or gRPC."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from cli import options
from cli.catalog import metadata_of
from cli.data import flat, input_tensors, read_data
from cli.gateway_client import GatewayClient
from cli.target import Target, find_target
from cli.terminal import output_console
from deploy.local.state_dir import DEFAULT

_MAX_SHOWN_VALUES = 16


def infer(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="JSON|@FILE|-", help="Rows, or an object of inputs by name.")
    ],
    grpc: Annotated[bool, typer.Option("--grpc", help="Ask over gRPC instead of REST.")] = False,
    grpc_address: Annotated[
        str | None, typer.Option("--grpc-address", metavar="HOST:PORT", help="The gateway's gRPC front.")
    ] = None,
    gateway: options.Gateway = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 60.0,
    as_json: options.AsJson = False,
) -> None:
    """Run a model on rows of numbers.

    Examples:

      meshserve infer iris --data '[[5.1, 3.5, 1.4, 0.2]]'

      meshserve infer iris --data @rows.json --grpc

      meshserve infer iris --data '{"input": [[6.7, 3.0, 5.2, 2.3]]}' --json
    """
    value, target = read_data(data), find_target(gateway, state_dir)
    if grpc or grpc_address is not None:
        answer = _over_grpc(grpc_address or target.grpc_address, model, value, timeout)
    else:
        answer = _over_rest(target, model, value, timeout)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
    else:
        output_console().print(outputs_table(answer["outputs"]))


def outputs_table(outputs: list[Any]) -> Table:
    """One row per row of the request when all outputs have as many; else one row per output."""
    counts = {int(output["shape"][0]) if output["shape"] else -1 for output in outputs}
    if len(counts) == 1 and -1 not in counts:
        (count,) = counts
        table = Table("row", *(output["name"] for output in outputs), box=None, header_style="bold", pad_edge=False)
        for row in range(count):
            table.add_row(str(row), *(_shown(_row_of(output, row, count)) for output in outputs))
        return table
    table = Table("output", "shape", "values", box=None, header_style="bold", pad_edge=False)
    for output in outputs:
        table.add_row(output["name"], str(output["shape"]), _shown(flat(output["data"])))
    return table


def _over_rest(target: Target, model: str, value: Any, timeout_s: float) -> Any:
    with GatewayClient(target.url, timeout_s=timeout_s) as client:
        tensors = input_tensors(value, metadata_of(client, model)["inputs"])
        return client.post(f"/v2/models/{quote(model, safe='')}/infer", {"inputs": tensors})


def _over_grpc(address: str, model: str, value: Any, timeout_s: float) -> Any:
    # Imported here: the other way needs no gRPC, and starts faster without it.
    from cli.infer_grpc import GrpcModels

    with GrpcModels(address, timeout_s=timeout_s) as models:
        return models.infer(model, input_tensors(value, models.inputs_of(model)))


def _row_of(output: Any, row: int, count: int) -> list[Any]:
    elements = flat(output["data"])
    size = len(elements) // count
    return elements[row * size : (row + 1) * size]


def _shown(values: list[Any]) -> str:
    parts = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values[:_MAX_SHOWN_VALUES]]
    return ", ".join(parts) + (", …" if len(values) > _MAX_SHOWN_VALUES else "")
