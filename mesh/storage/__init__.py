"""Artifacts by URI: one call gives the local path of a verified file, from the cache where it is there.

A store is chosen by the URI's scheme from the table below; a new one is a module and a row. This package
knows bytes, digests and disks; it does not know models, and it imports neither a service nor an RPC library,
so a predictor can fetch its model when nothing else of the mesh is up (docs/adr/0001-storage-in-mesh.md).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mesh import plugins
from mesh.errors import InvalidInput
from mesh.storage.cache import Cache
from mesh.storage.progress import FetchProgress, Report, Stage

__all__ = ["STORES", "Cache", "FetchProgress", "Report", "Stage", "Store", "fetch", "store_for"]

# scheme → "module:Class"; the class takes no argument it does not have a default for.
STORES: dict[str, str] = {
    "file": "mesh.storage.file:FileStore",
    "pypi": "mesh.storage.pypi:PypiStore",
}

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Store(Protocol):
    """One place where artifacts lie."""

    async def fetch(self, uri: str, *, sha256: str | None, cache: Cache, report: Report) -> Path:
        """The local path of the artifact at `uri`, whole and with the digest `sha256` (64 lower-case hex).

        Raises InvalidInput for a URI this store cannot read, NotFound, CorruptArtifact, DiskFull, Unavailable
        and DeadlineExceeded. When it raises, the cache holds nothing of this artifact.
        """
        ...


async def fetch(
    uri: str,
    *,
    sha256: str | None,
    cache_dir: Path,
    progress: Callable[[FetchProgress], None] | None = None,
    timeout_s: float = 1800.0,
) -> Path:
    """Give the local path of the artifact at `uri`: a plain path or one of the schemes in `STORES`.

    A path on this machine is verified where it lies; anything else is copied into the content-addressed cache
    in `cache_dir` once, however many processes ask for it. `sha256` is 64 hex digits; without it, what is
    cached is checked against the digest it had when it was fetched. `progress` is called on the event loop.
    `timeout_s` bounds the download, the wait for another process's download included.

    Raises what `Store.fetch` raises, NotFound for an unknown scheme, and InvalidInput for a malformed digest.
    """
    digest = _checked_digest(sha256)

    def report(stage: Stage, done_bytes: int, total_bytes: int | None) -> None:
        if progress is not None:
            progress(FetchProgress(uri, stage, done_bytes, total_bytes))

    cache = Cache(cache_dir, timeout_s=timeout_s)
    return await store_for(uri).fetch(uri, sha256=digest, cache=cache, report=report)


def store_for(uri: str) -> Store:
    """The store that reads `uri`; a URI without a scheme is a path on this machine."""
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else "file"
    store: Store = plugins.load(STORES, scheme, what="artifact URI scheme")()
    return store


def _checked_digest(sha256: str | None) -> str | None:
    if sha256 is None:
        return None
    digest = sha256.lower()
    if not _SHA256.fullmatch(digest):
        raise InvalidInput(f"sha256 {sha256!r} is not 64 hexadecimal digits", field="sha256")
    return digest
