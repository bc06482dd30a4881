"""The options that several verbs share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Gateway = Annotated[
    str | None,
    typer.Option(
        "--gateway",
        metavar="URL",
        help="The gateway to talk to. Default: the mesh that `up` runs here, else http://127.0.0.1:8080.",
    ),
]
StateDirectory = Annotated[
    Path, typer.Option("--state-dir", metavar="DIR", help="Where `up` keeps its logs, models and addresses.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0.1, help="Longest wait for the answer.")]
Registry = Annotated[
    str | None,
    typer.Option(
        "--registry",
        metavar="HOST:PORT",
        help="The registry to talk to. Default: the mesh that `up` runs here, else 127.0.0.1:8090.",
    ),
]
