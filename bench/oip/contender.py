"""A server that takes part: which processes it is, and which ports of theirs are asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.server_process import Command


@dataclass(frozen=True, slots=True)
class Setup:
    """processes: by a short name, in the order of their start. grpc, rest: ports; requests are spread over several."""

    processes: Mapping[str, Command]
    grpc: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Contender:
    """setup: for a folder of its own. fronts: which of "gRPC", "stream" and "REST" it has. note: how it is started.

    is_limit: it does nothing but answer, so that it shows what any server pays. is_checked: it must answer with the
    request's tensor before it is measured.
    """

    name: str
    version: str
    setup: Callable[[Path], Setup]
    fronts: tuple[str, ...]
    note: str = ""
    is_installed: bool = True
    is_ours: bool = False
    is_limit: bool = False
    is_checked: bool = True
