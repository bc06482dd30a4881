"""Virtual environments of peers: made with pip alone, versions pinned by the callers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from os import environ
from pathlib import Path

from bench.peers import PEERS


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether it is there or not."""
    return PEERS / name / "bin" / "python"


def install(name: str, requirements: Sequence[str], remove: Sequence[str] = ()) -> Path:
    """Make the environment of a peer, or bring it up to date; gives its interpreter.

    remove: packages that come as dependencies and must go. Raises CalledProcessError with pip's words on the terminal.
    """
    python = python_of(name)
    if not python.exists():
        # Some systems' Python cannot put pip into an environment: ours installs into it from outside.
        run([sys.executable, "-m", "venv", "--without-pip", str(PEERS / name)])
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    run([*pip, "install", "--quiet", *requirements])
    if remove:
        run([*pip, "uninstall", "--quiet", "--yes", *remove])
    return python


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None) -> None:
    """Run a step of an installation and show it. Raises CalledProcessError."""
    print("+", " ".join(argv), flush=True)
    subprocess.run(argv, check=True, cwd=folder, env={**environ, **(environment or {})})
