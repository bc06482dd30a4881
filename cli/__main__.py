"""The `meshserve` command: one file per verb, and one place where failures become sentences."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from cli import chat, engine, explain, infer, models, promote, rollback, status, traffic, up
from cli.failure import Failure
from mesh.errors import MeshError
from mesh.version import software_version

_TRACEBACK_FLAG = "--traceback"


def make_app() -> typer.Typer:
    """The command with all its verbs."""
    app = typer.Typer(
        name="meshserve",
        no_args_is_help=True,
        invoke_without_command=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_top)
    looks = (status.status, models.models, engine.engine)
    rollouts = (traffic.traffic, promote.promote, rollback.rollback)
    for verb in (up.up, chat.chat, infer.infer, explain.explain, *looks, *rollouts):
        app.command()(verb)
    return app


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line `argv` (default: the process's); ends the process."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    wants_traceback = _TRACEBACK_FLAG in arguments
    if wants_traceback:
        arguments.remove(_TRACEBACK_FLAG)
    try:
        make_app()(arguments, prog_name="meshserve")
    except Failure as failure:
        _end(str(failure))
    except MeshError as error:
        _end(error.message)
    except Exception as error:  # the top: whatever it is, the person gets a sentence
        if wants_traceback:
            traceback.print_exc()
        _end(f"unexpected {type(error).__name__}: {error}; this is a bug, {_TRACEBACK_FLAG} shows where")


def _top(
    version: Annotated[bool, typer.Option("--version", help="Print the version and end.", is_eager=True)] = False,
) -> None:
    """Serve models from a mesh of small gRPC services, language models first."""
    if version:
        typer.echo(f"meshserve {software_version()}")
        raise typer.Exit


def _end(sentence: str) -> None:
    print(f"meshserve: {sentence}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
