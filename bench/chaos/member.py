"""One process of the mesh under test: started, killed, frozen, drained, and started again. Linux only."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from bench.chaos.waiting import until
from bench.server_process import CannotStart, Command, free_port, spawn, tail

# How an engine's command line is told from those of a predictor's other children.
ENGINE_MODULE = "predictor.llm.worker"


class Member:
    """A service that can be harmed. `sessions`: the session of each of its lives, by which what is left is found."""

    def __init__(
        self, name: str, module: str, flags: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """module: run by `python -m` with `flags` and the ports. folder: of its state and log; is made."""
        self.name = name
        self.sessions: list[int] = []
        self.port = free_port()
        self._module = module
        self._flags = tuple(flags)
        self._folder = folder
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)

    @property
    def address(self) -> str:
        """host:port of its gRPC server."""
        return f"127.0.0.1:{self.port}"

    @property
    def metrics_address(self) -> str | None:
        """host:port of its metrics; None when it does not listen yet."""
        addresses = self._addresses()
        return None if addresses is None else addresses["metrics_address"]

    @property
    def pid(self) -> int:
        """Of the life that runs, or of the last one."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> Path:
        """What the life that runs has said."""
        return self._folder / f"log-{len(self.sessions)}.txt"

    def start(self, *, on_new_port: bool = False) -> None:
        """Begin a life; returns at once. The one before must have ended."""
        assert not self.is_running, f"{self.name} runs already"
        if on_new_port:
            self.port = free_port()
        self.ready_file.unlink(missing_ok=True)
        ports = ("--grpc-port", str(self.port), "--metrics-port", "0", "--ready-file", str(self.ready_file))
        state = ("--state-dir", str(self._folder / "state"))
        command = Command((sys.executable, "-m", self._module, *ports, *state, *self._flags), self._environment)
        self._process = spawn(command, self._folder / f"log-{len(self.sessions) + 1}.txt")
        self.sessions.append(self._process.pid)

    async def until_listening(self, within_s: float) -> dict[str, str]:
        """Wait for its ready file; gives the addresses in it. Raises CannotStart."""

        async def listens() -> bool:
            if not self.is_running:
                raise CannotStart(f"{self.name} ended: {tail(self.log)}")
            return self._addresses() is not None

        await until(listens, within_s)
        addresses = self._addresses()
        if addresses is None:
            raise CannotStart(f"{self.name} does not listen after {within_s:g} s: {tail(self.log)}")
        return addresses

    async def until_ended(self, within_s: float) -> bool:
        """Wait for its end, and say whether it came."""

        async def has_ended() -> bool:
            return not self.is_running

        return await until(has_ended, within_s)

    def signal(self, number: signal.Signals) -> None:
        """To the process alone."""
        assert self._process is not None, "start() comes first"
        self._process.send_signal(number)

    def kill_all(self) -> None:
        """SIGKILL to the process and to all that it started."""
        for process in in_session(self.sessions[-1]):
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def engine(self) -> psutil.Process | None:
        """The process that computes its language model, if there is one."""
        for process in in_session(self.sessions[-1]):
            with suppress(psutil.Error):
                if ENGINE_MODULE in process.cmdline():
                    return process
        return None

    def survivors(self) -> list[psutil.Process]:
        """What is left of all its lives."""
        return [process for session in self.sessions for process in in_session(session)]

    def _addresses(self) -> dict[str, str] | None:
        try:
            found = json.loads(self.ready_file.read_bytes())
        except (OSError, ValueError):
            return None
        # Of the life before, which may have written it late.
        if found.pop("pid") != self.pid:
            return None
        addresses: dict[str, str] = found
        return addresses

    @property
    def ready_file(self) -> Path:
        return self._folder / "ready.json"


def in_session(session: int) -> list[psutil.Process]:
    """All processes of a session that run: the processes of one `spawn`, orphans among them."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if _session_of(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _session_of(pid: int) -> int:
    # The fields behind the program's name, which may itself hold spaces and parentheses: proc_pid_stat(5).
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[3])
