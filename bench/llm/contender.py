"""A server that takes part: how to start it, how to talk to it, and what its answers are worth."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.llm.answer import Client

MODEL = "smollm2"


@dataclass(frozen=True, slots=True)
class Command:
    """A server's command line, and what is added to our environment for it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contender:
    """quality: the arithmetic of weights and activations, in words. is_ours: MeshServe.

    is_lower_quality: this arithmetic loses more than 1 % of perplexity. protocol: what the load generator speaks to it.
    version: of the software that serves. note: how it is started, for the report. command: for a free port and a folder
    of its own. client: None while the server has not yet said where it listens.
    """

    name: str
    quality: str
    protocol: str
    version: str
    command: Callable[[int, Path], Command]
    client: Callable[[int, Path], Client | None]
    note: str = ""
    is_installed: bool = True
    is_ours: bool = False
    is_lower_quality: bool = False


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
