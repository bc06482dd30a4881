"""`meshserve explain`: what in a row or in a prompt carries the model's answer, as a table or as coloured text."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from cli import options
from cli.attribution import explanation_drawing
from cli.data import read_data, rows_of
from cli.failure import Failure
from cli.gateway_client import GatewayClient
from cli.target import find_target
from cli.terminal import output_console
from deploy.local.state_dir import DEFAULT


def explain(
    model: Annotated[str, typer.Argument(help="Name of the model.")],
    prompt: Annotated[str | None, typer.Argument(help="A message to a language model.")] = None,
    data: Annotated[str | None, typer.Option("--data", "-d", metavar="JSON|@FILE|-", help="Rows of a table.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="The answer to explain. Default: the model's own.")
    ] = None,
    method: Annotated[str | None, typer.Option("--method", help="How to explain. Default: the deployment's.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Longest answer when the model is asked for it.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take the prompt as it is, without a chat template.")] = False,
    gateway: options.Gateway = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 120.0,
    as_json: options.AsJson = False,
) -> None:
    """Say what in a row or prompt carries the answer.

    Examples:

      meshserve explain iris --data '[[5.1, 3.5, 1.4, 0.2]]'

      meshserve explain smollm2 "Name the capital of France."

      meshserve explain smollm2 --raw "The capital of France is" --target " Paris" --json
    """
    body = _body(prompt, raw, data, target, max_tokens)
    if method is not None:
        body["method"] = method
    with GatewayClient(find_target(gateway, state_dir).url, timeout_s=timeout) as client:
        answer = client.post(f"/v1/models/{quote(model, safe='')}:explain", body)
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    console = output_console()
    for row, explanation in enumerate(answer["explanations"]):
        console.print(explanation_drawing(explanation, row))
        console.print()


def _body(
    prompt: str | None, raw: bool, data: str | None, target: str | None, max_tokens: int | None
) -> dict[str, Any]:
    if (prompt is None) == (data is None):
        raise Failure(
            "there is nothing to explain" if prompt is None else "there are both a prompt and --data",
            "give rows with --data for a table, or a message for a language model",
        )
    if data is not None:
        return {"instances": rows_of(read_data(data))}
    asked = {"prompt": prompt} if raw else {"messages": [{"role": "user", "content": prompt}]}
    chosen = {"target": target, "max_tokens": max_tokens}
    return {"instances": [{**asked, **{name: value for name, value in chosen.items() if value is not None}}]}
