"""The kernels as a library that this machine can load: one that was compiled beforehand, or compiled on first use.

A build is named by its target and a hash of what else decides it: sources, flags, compiler. It grows under another name
and appears by one rename, so that nobody loads half a library; its last bytes are a hash of all before, so that nobody
loads one that a full disk or a power cut has damaged. Knows nothing of what the kernels do.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from mesh.errors import DeadlineExceeded, Unavailable, Unsupported
from predictor.llm.native.targets import Target, best_target, cpu_flags

SOURCES = Path(__file__).parent
MAIN_SOURCE = "forward.cpp"

# Contraction would fuse a multiplication with an addition wherever the compiler likes: bits must not hang on that.
FLAGS = ("-O3", "-std=c++20", "-ffp-contract=off", "-fPIC", "-shared", "-pthread", "-w")
COMPILER = "g++"
BUILD_TIMEOUT_S = 120.0

# Where an image has the libraries that its builder made (deploy/Dockerfile), for it has no compiler. They belong to the
# installation like its Python code, so whoever can write here is trusted already.
PREBUILT_DIR = Path(sys.prefix) / "lib" / "meshserve" / "kernels"

_log = structlog.get_logger(__name__)
_LOCK_POLL_S = 0.05
_SEAL_BYTES = hashlib.sha256().digest_size


def build(
    cache_dir: Path,
    *,
    target: Target | None = None,
    prebuilt_dir: Path = PREBUILT_DIR,
    find: Callable[[str], str | None] = shutil.which,
) -> Path:
    """The compiled library: from `prebuilt_dir`, from the cache, or made now.

    cache_dir: the artifact cache; builds are kept in its folder `native`.
    target: the best for this CPU when left out. find: where a program is.
    Raises Unsupported when there is no compiler or it cannot compile this, Unavailable when the disk does not let us,
    DeadlineExceeded when a build, or that of another process, takes longer than BUILD_TIMEOUT_S.
    """
    target = target or best_target(cpu_flags())
    prebuilt = prebuilt_path(target, prebuilt_dir)
    if _is_whole(prebuilt):
        return prebuilt
    compiler = _find_compiler(find)
    folder = _own_folder(cache_dir.expanduser() / "native")
    library = folder / f"{target.name}-{_hash(*_decisive(target), _run([compiler, '--version']))}.so"
    if _is_whole(library):
        return library
    with _only_builder(folder / "build.lock"):
        if not _is_whole(library):
            _compile(compiler, target, library)
    return library


def prebuilt_path(target: Target, prebuilt_dir: Path = PREBUILT_DIR) -> Path:
    """Where the library for `target`, of these very sources, lies or would lie."""
    return prebuilt_dir / f"{target.name}-{_hash(*_decisive(target))}.so"


def prebuild(
    prebuilt_dir: Path, targets: tuple[Target, ...], find: Callable[[str], str | None] = shutil.which
) -> list[Path]:
    """Compiles for all `targets`, whatever this CPU is. Raises as `build` does."""
    compiler = _find_compiler(find)
    try:
        prebuilt_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {prebuilt_dir}: {error.strerror}") from error
    libraries = [prebuilt_path(target, prebuilt_dir) for target in targets]
    for target, library in zip(targets, libraries, strict=True):
        _compile(compiler, target, library)
        library.chmod(0o644)  # whoever installs it and whoever loads it are not the same user
    return libraries


def _find_compiler(find: Callable[[str], str | None]) -> str:
    compiler = find(COMPILER)
    if compiler is None:
        raise Unsupported(f"there is no C++ compiler: {COMPILER} is not on the path")
    return compiler


def _decisive(target: Target) -> Iterator[bytes | str]:
    """All but the compiler that decides what a library is."""
    for path in sorted((*SOURCES.glob("*.h"), *SOURCES.glob("*.cpp"))):
        yield path.read_bytes()
    yield from (*FLAGS, *target.compiler_flags, platform.machine())


def _hash(*parts: bytes | str) -> str:
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode()
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()[:32]


def _is_whole(library: Path) -> bool:
    """Whether a library is there and undamaged: loading half a one can kill the process."""
    try:
        content = library.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be read from {library}: {error.strerror}") from error
    if content[-_SEAL_BYTES:] == hashlib.sha256(content[:-_SEAL_BYTES]).digest():
        return True
    _log.warning("native_kernels_damaged", path=str(library))
    return False


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


def _compile(compiler: str, target: Target, library: Path) -> None:
    start = time.monotonic()
    try:
        descriptor, name = tempfile.mkstemp(prefix="build-", suffix=".tmp", dir=library.parent)
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {library.parent}: {error.strerror}") from error
    os.close(descriptor)
    building = Path(name)
    try:
        _run([compiler, *FLAGS, *target.compiler_flags, "-o", str(building), str(SOURCES / MAIN_SOURCE)])
        content = building.read_bytes()
        building.write_bytes(content + hashlib.sha256(content).digest())
        building.replace(library)
    except OSError as error:
        raise Unavailable(f"compiled kernels cannot be kept in {library.parent}: {error.strerror}") from error
    finally:
        building.unlink(missing_ok=True)
    _log.info("native_kernels_compiled", seconds=round(time.monotonic() - start, 1), path=str(library))


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
