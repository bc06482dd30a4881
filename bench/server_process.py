"""Starts a server as a process of its own, and ends it with all of its children. Knows no protocol. Linux only."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.processes import tree
from deploy.local import launch

STOP_TIMEOUT_S = 30.0


class CannotStart(Exception):
    """A contender ended, or gave no token in time. The message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Command:
    """A server's command line, and what is added to our environment for it."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def spawn(command: Command, log: Path) -> subprocess.Popen[bytes]:
    """Start the server; what it prints goes to `log`."""
    # The launcher has the kernel end the server when the benchmark dies: none may disturb the next run.
    launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
    with log.open("wb") as file:
        return subprocess.Popen(
            (*launcher, *command.argv),
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **command.environment},
            start_new_session=True,
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    """SIGINT, as a person would; what is still there after STOP_TIMEOUT_S is killed."""
    everybody = tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    for each in everybody:
        with suppress(psutil.Error):
            each.kill()
    process.wait()
    psutil.wait_procs(everybody, timeout=STOP_TIMEOUT_S)


def tail(log: Path) -> str:
    """The last words of a server that ended."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:])
