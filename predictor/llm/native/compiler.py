"""Compiles the kernels for this machine on first use, and keeps the result.

A build is named by a hash of everything that decides it: sources, flags, compiler version, CPU. It grows under another
name and appears by one rename, so that nobody loads half a library. Knows nothing of what the kernels do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from mesh.errors import DeadlineExceeded, Unavailable, Unsupported

SOURCES = Path(__file__).parent
MAIN_SOURCE = "forward.cpp"

# Contraction would fuse a multiplication with an addition wherever the compiler likes: bits must not hang on that.
FLAGS = ("-O3", "-std=c++20", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-w")
COMPILER = "g++"
BUILD_TIMEOUT_S = 120.0

# Below these the kernels work, but PyTorch's are faster.
FAST_CPU_FLAGS = frozenset({"avx2", "fma", "f16c"})

_log = structlog.get_logger(__name__)
_CPUINFO = Path("/proc/cpuinfo")
_LOCK_POLL_S = 0.05


def build(cache_dir: Path, *, target: str = "native", find: Callable[[str], str | None] = shutil.which) -> Path:
    """The compiled library, from the cache or made now.

    cache_dir: the artifact cache; builds are kept in its folder `native`.
    target: what -march gets. find: where a program is.
    Raises Unsupported when there is no compiler or it cannot compile this, Unavailable when the disk does not let us,
    DeadlineExceeded when a build, or that of another process, takes longer than BUILD_TIMEOUT_S.
    """
    compiler = find(COMPILER)
    if compiler is None:
        raise Unsupported(f"there is no C++ compiler: {COMPILER} is not on the path")
    folder = _own_folder(cache_dir.expanduser() / "native")
    library = folder / f"{_build_key(compiler, target)}.so"
    if library.exists():
        return library
    with _only_builder(folder / "build.lock"):
        if not library.exists():
            start = time.monotonic()
            _compile(compiler, target, library)
            _log.info("native_kernels_compiled", seconds=round(time.monotonic() - start, 1), path=str(library))
    return library


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """The features that the kernel reports for the first CPU; empty where it reports none."""
    for line in _cpu_description(cpuinfo):
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


def _cpu_description(cpuinfo: Path = _CPUINFO) -> list[str]:
    """What decides -march=native: vendor, family, model and flags of the first CPU."""
    try:
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:
        return []
    wanted = ("vendor_id", "cpu family", "model", "flags", "Features", "CPU")
    return [line for line in first.splitlines() if line.partition(":")[0].strip().startswith(wanted)]


def _own_folder(folder: Path) -> Path:
    """`folder`, made if need be. What lies in it is loaded as code, so nobody else may be able to write to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {folder}: {error.strerror}") from error
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise Unavailable(f"compiled kernels cannot be kept in {folder}: others can write to it")
    return folder


def _build_key(compiler: str, target: str) -> str:
    digest = hashlib.sha256()
    for path in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        digest.update(path.read_bytes())
    for text in (*FLAGS, target, _run([compiler, "--version"]), platform.machine(), *_cpu_description()):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:32]


def _compile(compiler: str, target: str, library: Path) -> None:
    try:
        descriptor, name = tempfile.mkstemp(prefix="build-", suffix=".tmp", dir=library.parent)
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {library.parent}: {error.strerror}") from error
    os.close(descriptor)
    building = Path(name)
    try:
        _run([compiler, *FLAGS, f"-march={target}", "-o", str(building), str(SOURCES / MAIN_SOURCE)])
        building.replace(library)
    finally:
        building.unlink(missing_ok=True)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=BUILD_TIMEOUT_S, check=False
        )
    except OSError as error:
        raise Unsupported(f"{command[0]} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise DeadlineExceeded(f"{command[0]} took longer than {BUILD_TIMEOUT_S:g} s") from error
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if "error" in line] or [f"exit status {done.returncode}"]
        raise Unsupported(f"{command[0]} cannot compile the kernels: {reasons[0][:300]}")
    return done.stdout


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    """Holds the lock of all processes that build here; waits for whoever has it, at most BUILD_TIMEOUT_S."""
    deadline = time.monotonic() + BUILD_TIMEOUT_S
    try:
        file = path.open("w")
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {path.parent}: {error.strerror}") from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(
                        f"another process has been building kernels for {BUILD_TIMEOUT_S:g} s"
                    ) from None
                time.sleep(_LOCK_POLL_S)
        yield
