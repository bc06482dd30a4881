"""What must lie on the disk before the services start: the deployments file, and the example model it may name.

The default deployments name a model that nobody ships: it is trained here, once, by the example script.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from deploy.local.events import Preparing, Report
from deploy.local.log_file import LogFile
from deploy.local.log_line import readable
from deploy.local.process import Command, how_it_ended, read_lines, spawn
from deploy.local.state_dir import StateDir
from mesh.deployments import read_deployments
from mesh.errors import Unavailable
from mesh.v1.registry_pb2 import Deployment

DEFAULT_DEPLOYMENTS = Path(__file__).with_name("mesh.yaml")

_IRIS = "iris"
_TRAIN_IRIS = (sys.executable, "-m", "examples.train_iris", "--out")


def place_deployments(state: StateDir, given: Path | None) -> tuple[Path, list[Deployment]]:
    """The deployments file to serve and what it says; the default one is written into the state directory.

    Raises InvalidInput with a sentence that names file, deployment and field.
    """
    if given is not None:
        return given.absolute(), read_deployments(given)
    text = DEFAULT_DEPLOYMENTS.read_text(encoding="utf-8")
    target = state.deployments_file
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.write_text(text.replace("{state_dir}", quote(str(state.path))), encoding="utf-8")
    temporary.replace(target)
    return target, read_deployments(target)


async def train_missing_models(state: StateDir, deployments: Sequence[Deployment], report: Report) -> None:
    """Train the iris classifier when a deployment wants it from the state directory and it is not there."""
    folder = state.models / _IRIS
    wanted = f"file://{quote(str(folder))}"
    if folder.exists() or all(each.predictor.storage_uri != wanted for each in deployments):
        return
    report(Preparing("training the iris classifier"))
    await _run(Command((*_TRAIN_IRIS, str(folder))), state.log_file("train_iris"))


async def _run(command: Command, log_path: Path) -> None:
    log, last_line = LogFile(log_path), b""

    def keep(line: bytes) -> None:
        nonlocal last_line
        log.write(line)
        last_line = line or last_line

    spawned = await spawn(command)
    try:
        await read_lines(spawned.output, keep)
        returncode = await spawned.process.wait()
    finally:
        spawned.pipe.close()
        log.close()
        if spawned.process.returncode is None:
            spawned.process.kill()
    if returncode != 0:
        program = " ".join(command.arguments[1:3])
        raise Unavailable(f"{program} {how_it_ended(returncode)}: {readable(last_line)}; its log is {log_path}")
