"""`meshserve engine`: a look inside the engine of a language model, between two of its steps.

It asks the predictors themselves, where `up` wrote down that they are, or at the address that is given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.failure import Failure
from cli.target import find_target
from cli.terminal import output_console
from deploy.local.state_dir import DEFAULT

if TYPE_CHECKING:
    from mesh.v1.engine_debug_pb2 import DescribeEngineResponse

_PREDICTOR = "predictor"


def engine(
    model: Annotated[str, typer.Argument(help="Name of a language model.")],
    address: Annotated[
        str | None,
        typer.Option("--address", metavar="HOST:PORT", help="A predictor. Default: those that `up` runs here."),
    ] = None,
    model_version: Annotated[str, typer.Option("--model-version", help="Version of the model.")] = "",
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 5.0,
    as_json: options.AsJson = False,
) -> None:
    """Show what a language model's engine computes: outputs, their blocks, the pool, the last step.

    It shows counts and ids, and nothing of what prompts or answers say.

    Examples:

      meshserve engine smollm2

      meshserve engine smollm2 --json | jq .running

      meshserve engine smollm2 --address 10.0.0.7:8092
    """
    found = [_described(each, model, model_version, timeout) for each in _addresses(address, state_dir)]
    if as_json:
        typer.echo(json.dumps(_plain(found[0]) if len(found) == 1 else [_plain(each) for each in found], indent=2))
        return
    # Imported here: other verbs start faster without the messages.
    from cli.engine_view import engine_view

    console = output_console()
    for each in found:
        console.print(engine_view(each), highlight=False)


def _addresses(address: str | None, state_dir: Path) -> list[str]:
    if address is not None:
        host, separator, port = address.rpartition(":")
        if not (host and separator and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
            raise Failure(f"--address '{address}' is no address", "write it like 127.0.0.1:8092")
        return [address]
    services = find_target(None, state_dir).services
    found = [service.grpc_address for service in services if service.name.startswith(_PREDICTOR)]
    if not found:
        raise Failure("no mesh runs here", "start one with `meshserve up`, or name a predictor with --address")
    return found


def _described(address: str, model: str, version: str, timeout_s: float) -> DescribeEngineResponse:
    import grpc

    from mesh.v1.engine_debug_pb2 import DescribeEngineRequest
    from mesh.v1.engine_debug_pb2_grpc import EngineDebugStub

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel, _explained(address):
        request = DescribeEngineRequest(model_name=model, model_version=version)
        return EngineDebugStub(channel).DescribeEngine(request, timeout=timeout_s)


@contextmanager
def _explained(address: str) -> Iterator[None]:
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        # Every error of a channel is also a Call, which the type does not say.
        code, details = error.code(), error.details() or ""
        if code is grpc.StatusCode.UNAVAILABLE and "onnect" in details:
            raise Failure(f"no predictor answers at {address} (gRPC)", "look at `meshserve status`") from None
        if code is grpc.StatusCode.UNIMPLEMENTED:
            raise Failure(f"what answers at {address} is no predictor", "name one with --address") from None
        raise Failure(details or code.name) from None


def _plain(value: Any) -> Any:
    """A message as what JSON has; every field is there, and whole numbers are numbers."""
    if hasattr(value, "DESCRIPTOR"):
        names = [field.name for field in value.DESCRIPTOR.fields]
        return {name: _plain(getattr(value, name)) if _is_there(value, name) else None for name in names}
    if isinstance(value, str | int | float | bool):
        return value
    return [_plain(item) for item in value]


def _is_there(message: Any, name: str) -> bool:
    """False for a message in a message that is not set."""
    try:
        return bool(message.HasField(name))
    except ValueError:  # a list or a number, which is always there
        return True
