"""The bare servers of `bench.oip.bare` as contenders: what any server of their kind pays."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import grpc

from bench.oip.contender import Contender, Setup
from bench.server_process import Command, free_port

AIO, SYNC, PROXY, ASGI = "bare gRPC echo, asyncio", "bare gRPC echo, threads", "bare byte proxy", "bare ASGI echo"


def contenders() -> list[Contender]:
    return [
        _limit(AIO, ("gRPC", "stream"), lambda _: _grpc_echo("aio")),
        _limit(SYNC, ("gRPC", "stream"), lambda _: _grpc_echo("sync")),
        _limit(PROXY, ("gRPC", "stream"), lambda _: _proxy()),
        _limit(ASGI, ("REST",), lambda _: _asgi_echo()),
    ]


def _limit(name: str, fronts: tuple[str, ...], setup: Callable[[Path], Setup]) -> Contender:
    return Contender(name, grpc.__version__, setup, fronts, note="`python -m bench.oip.bare`", is_limit=True)


def _grpc_echo(kind: str) -> Setup:
    port = free_port()
    return Setup({"echo": _bare(kind, port)}, (port,))


def _proxy() -> Setup:
    echo, proxy = free_port(), free_port()
    return Setup({"echo": _bare("aio", echo), "proxy": _bare("proxy", proxy, echo)}, (proxy,))


def _asgi_echo() -> Setup:
    port = free_port()
    return Setup({"echo": _bare("asgi", port)}, (), (port,))


def _bare(kind: str, *ports: int) -> Command:
    return Command((sys.executable, "-m", "bench.oip.bare", kind, *map(str, ports)))
