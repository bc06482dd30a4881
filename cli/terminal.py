"""Where tables go: a terminal as wide as it is, or a pipe or file where no line is cut."""

from __future__ import annotations

from rich.console import Console

_UNCUT = 10_000


def output_console() -> Console:
    """A console on stdout."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNCUT)
