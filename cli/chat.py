"""`meshserve chat`: one question, or a conversation, with a language model; the answer appears as it is generated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from cli import options
from cli.catalog import chat_model
from cli.failure import Failure
from cli.gateway_client import GatewayClient
from cli.target import find_target
from deploy.local.state_dir import DEFAULT

_FAREWELLS = frozenset({"/exit", "/quit", "/bye"})
_HELP = "Enter a message. /clear forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C ends an answer."


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What goes into each request, beside the messages. None leaves the choice to the gateway."""

    model: str
    max_tokens: int | None
    temperature: float
    seed: int | None

    def body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        chosen = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        given = {name: value for name, value in chosen.items() if value is not None}
        return {"model": self.model, "messages": messages, "stream": True, **given}


def chat(
    question: Annotated[
        str | None, typer.Argument(help="Ask this and end. Without it, a conversation; '-' reads stdin.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the first language model.")] = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Longest answer.")] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help="0 takes the likeliest token each time.")
    ] = 0.2,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="The same seed, the same answer.")] = None,
    gateway: options.Gateway = None,
    state_dir: options.StateDirectory = DEFAULT,
    timeout: options.Timeout = 120.0,
) -> None:
    """Talk with a language model.

    Examples:

      meshserve chat "Name the capital of France."

      meshserve chat --temperature 0 --max-tokens 40 "Name three colours."

      echo "Say hello." | meshserve chat -

      meshserve chat
    """
    with GatewayClient(find_target(gateway, state_dir).url, timeout_s=timeout) as client:
        settings = ChatSettings(chat_model(client, model), max_tokens, temperature, seed)
        opening = [{"role": "system", "content": system}] if system else []
        if question is None and sys.stdin.isatty():
            _converse(client, settings, opening)
            return
        text = sys.stdin.read() if question in (None, "-") else question
        if not text or not text.strip():
            raise Failure("there is no question", 'write it like `meshserve chat "What is rain?"`')
        for part in answer(client, settings, [*opening, {"role": "user", "content": text}]):
            _show(part)
        typer.echo()


def answer(client: GatewayClient, settings: ChatSettings, messages: list[dict[str, str]]) -> Iterator[str]:
    """The parts of the model's answer, as they come. Raises Failure."""
    for event in client.stream("/v1/chat/completions", settings.body(messages)):
        for choice in event.get("choices", ()):
            part = choice.get("delta", {}).get("content")
            if part:
                yield part


def _converse(client: GatewayClient, settings: ChatSettings, opening: list[dict[str, str]]) -> None:
    typer.secho(f"{settings.model} at {client.url}. {_HELP}", dim=True)
    messages = list(opening)
    while True:
        try:
            text = input("\n> ").strip()
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return
        if text in _FAREWELLS:
            return
        if text == "/clear":
            messages = list(opening)
        elif text:
            messages = _exchange(client, settings, [*messages, {"role": "user", "content": text}])


def _exchange(client: GatewayClient, settings: ChatSettings, messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Ask, show the answer, and give the conversation with it. A failed exchange leaves the conversation as it was."""
    parts: list[str] = []
    try:
        for part in answer(client, settings, messages):
            parts.append(part)
            _show(part)
        typer.echo()
    except KeyboardInterrupt:
        typer.secho(" (stopped)", dim=True)
    except Failure as failure:
        typer.secho(f"\n{failure}", fg="red", err=True)
        return messages[:-1]
    return [*messages, {"role": "assistant", "content": "".join(parts)}]


def _show(part: str) -> None:
    typer.echo(part, nl=False)
    sys.stdout.flush()
