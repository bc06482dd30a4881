"""Environments of foreign clients, under `.interop/` at the top of the repository: `make interop-clients` makes them.

Each is made once and again when its pins change. What cannot be had on a machine is said, and keeps no other away: the
tests of that client are skipped with these words.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".interop"
PINS = Path(__file__).with_name("clients.toml")
NODE_PACKAGES = Path(__file__).with_name("node")
INSTALL_S = 600.0


class CannotInstall(Exception):
    """The environment is not to be had here; the message says what is missing."""


def main() -> int:
    """Make all environments, two at a time; gives 1 when one cannot be had."""
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(_try, INSTALL))
    for name, words in zip(INSTALL, outcomes, strict=True):
        sys.stdout.write(f"{name}: {words or 'ready'}\n")
    return 1 if any(outcomes) else 0


def ready(name: str) -> Path:
    """The folder of the environment `name`, made now if it is not there or has other pins. Raises CannotInstall."""
    folder = ENVIRONMENTS / name
    stamp = folder / ".pins"
    pins = _pins_of(name)
    if stamp.exists() and stamp.read_text() == pins:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    INSTALL[name](folder)
    stamp.write_text(pins)
    return folder


def python_of(folder: Path) -> Path:
    """The interpreter of an environment of Python packages."""
    return folder / "bin" / "python"


def _try(name: str) -> str:
    try:
        ready(name)
    except CannotInstall as error:
        return str(error)
    return ""


def _pins_of(name: str) -> str:
    text = (NODE_PACKAGES / "package-lock.json").read_text() if name == "node" else "\n".join(_requirements(name))
    return hashlib.sha256(text.encode()).hexdigest()


def _requirements(name: str) -> list[str]:
    with PINS.open("rb") as file:
        requirements: list[str] = tomllib.load(file)[name]["requirements"]
    return requirements


def _install_python(folder: Path) -> None:
    # Some systems' Python cannot put pip into an environment: ours installs into it from outside.
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    _pip("--python", str(python_of(folder)), "install", *_requirements(folder.name))


def _install_perf_analyzer(folder: Path) -> None:
    _pip("install", "--target", str(folder), *_requirements(folder.name))
    (folder / "bin" / "perf_analyzer").chmod(0o755)
    if ctypes.util.find_library("b64") is None:
        # Without root: the package is unpacked here.
        if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
            raise CannotInstall("perf_analyzer needs libb64.so.0d; Debian has it in the package libb64-0d")
        try:
            _run(["apt-get", "download", "libb64-0d"], folder)
        except CannotInstall:  # a new machine has no lists of packages yet
            _run(["apt-get", "update"])
            _run(["apt-get", "download", "libb64-0d"], folder)
        _run(["sh", "-c", f"dpkg -x libb64-0d_*.deb {folder / 'system'}"], folder)


def _install_node(folder: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise CannotInstall("node and npm are missing; Debian has them in the packages nodejs and npm")
    for file in NODE_PACKAGES.glob("package*.json"):
        shutil.copy(file, folder)
    _run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], folder)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    _run([*command, "--quiet", "--no-deps", "--no-compile"])


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False)
    if done.returncode != 0:
        raise CannotInstall(f"`{' '.join(command[:6])} …` failed: {(done.stderr or done.stdout).strip()[-500:]}")


INSTALL: dict[str, Callable[[Path], None]] = {
    "kserve": _install_python,
    "mlserver": _install_python,
    "sdk": _install_python,
    "perf_analyzer": _install_perf_analyzer,
    "node": _install_node,
}

if __name__ == "__main__":
    sys.exit(main())
