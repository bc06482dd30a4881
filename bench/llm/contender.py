"""A server that takes part: how to start it, how to talk to it, and what its answers are worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.llm.answer import Client
from bench.server_process import Command

MODEL = "smollm2"


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
