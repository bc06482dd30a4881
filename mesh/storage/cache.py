"""The content-addressed cache: artifacts by digest, filled once, shared by processes, never half-read.

    blobs/sha256/<hex>/<filename>   the artifacts, each a file or a folder
    index/<key>.json                which digest and size a URI had, so that a cached one needs no network
    locks/<key>.lock                one writer per URI at a time, over all processes
    staging/<key>.<random>/         where a download grows before one rename makes it a blob

The layout by digest is that of the OCI image layout. The cache does not know how an artifact is fetched: its
caller gives the coroutine that does it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import structlog

from mesh.errors import CorruptArtifact, DeadlineExceeded, Unavailable
from mesh.storage.disk import StagedFile, rename_durably, sha256_of, size_of, write_whole, writing
from mesh.storage.lock import file_lock, lock_if_free
from mesh.storage.progress import Report
from mesh.storage.worker import run_in_thread

# Writes the artifact into the empty folder it is given.
Fill = Callable[[Path], Awaitable[StagedFile]]

_log = structlog.get_logger(__name__)
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _IndexEntry:
    uri: str
    sha256: str
    size_bytes: int


class Cache:
    """One cache folder. Processes may share it as long as they share a kernel: the lock is flock(2)."""

    def __init__(self, root: Path, *, timeout_s: float = 1800.0) -> None:
        self._root = root.absolute()
        self._timeout_s = timeout_s

    async def get_or_fill(self, uri: str, filename: str, *, sha256: str | None, fill: Fill, report: Report) -> Path:
        """Give the blob of `uri`, verified byte by byte; `fill` it first when it is missing or damaged.

        `filename` is one path component. Of all callers in all processes that ask at once, one runs `fill`.
        Raises CorruptArtifact if what was filled has not the digest `sha256`, DeadlineExceeded after
        `timeout_s`, DiskFull and Unavailable for the disk; then nothing of the attempt is left.
        """
        report("resolve", 0, None)
        if (cached := await self._lookup(uri, filename, sha256, report)) is not None:
            return cached
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        key = _key(uri)
        with writing(uri, self._root):
            for folder in ("blobs/sha256", "index", "locks", "staging"):
                (self._root / folder).mkdir(parents=True, exist_ok=True)
            async with file_lock(self._lock_path(key), deadline=deadline, purpose=f"the fetch of {uri}"):
                if (cached := await self._lookup(uri, filename, sha256, report)) is not None:
                    return cached
                await run_in_thread(lambda _: self._sweep(key))
                async with self._staging(key) as staging:
                    staged = await self._filled(uri, fill, staging, deadline)
                    if sha256 is not None and staged.sha256 != sha256:
                        raise digest_mismatch(uri, staged.sha256, sha256)
                    return await run_in_thread(lambda _: self._commit(uri, filename, staged, staging))

    async def _filled(self, uri: str, fill: Fill, staging: Path, deadline: float) -> StagedFile:
        try:
            async with asyncio.timeout_at(deadline):
                return await fill(staging)
        except TimeoutError:
            raise DeadlineExceeded(f"{uri} was not fetched within {self._timeout_s:g} s") from None

    async def _lookup(self, uri: str, filename: str, sha256: str | None, report: Report) -> Path | None:
        """The verified blob, or None. Takes no lock: a blob appears by one rename and never changes after."""
        entry = self._read_index(uri)
        digest = sha256 or (entry.sha256 if entry is not None else None)
        if digest is None:
            return None
        blob = self._blob_path(digest, filename)
        try:
            size_bytes = await run_in_thread(lambda _: size_of(blob))
            if entry is not None and entry.sha256 == digest and entry.size_bytes != size_bytes:
                _log.warning("cached_artifact_damaged", uri=uri, path=str(blob), size_bytes=size_bytes)
                return None
            actual = await run_in_thread(
                lambda advance: sha256_of(blob, advance), lambda done: report("verify", done, size_bytes)
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable(f"cannot read {blob}, the cached copy of {uri}: {error.strerror}") from error
        if actual != digest:
            _log.warning("cached_artifact_damaged", uri=uri, path=str(blob), sha256=actual)
            return None
        return blob

    def _commit(self, uri: str, filename: str, staged: StagedFile, staging: Path) -> Path:
        blob = self._blob_path(staged.sha256, filename)
        blob.parent.mkdir(exist_ok=True)
        if blob.is_dir() and sha256_of(blob, lambda _: None) != staged.sha256:
            # No rename replaces a folder that holds something. Whoever has a file of it open keeps that.
            blob.replace(staging / "damaged")
        if not blob.is_dir():
            rename_durably(staged.path, blob)
        entry = _IndexEntry(uri, staged.sha256, staged.size_bytes)
        write_whole(self._index_path(uri), json.dumps(asdict(entry)).encode(), staging / "index.json")
        return blob

    @asynccontextmanager
    async def _staging(self, key: str) -> AsyncIterator[Path]:
        folder = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=self._root / "staging"))
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _sweep(self, own_key: str) -> None:
        """Remove what killed processes left behind: staging folders whose lock nobody holds, or we do."""
        for folder in (self._root / "staging").iterdir():
            key = folder.name.partition(".")[0]
            if key == own_key:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with lock_if_free(self._lock_path(key)) as is_abandoned:
                if is_abandoned:
                    shutil.rmtree(folder, ignore_errors=True)

    def _read_index(self, uri: str) -> _IndexEntry | None:
        """What is known about `uri`; an index file that makes no sense is the same as none."""
        try:
            fields = json.loads(self._index_path(uri).read_bytes())
            entry = _IndexEntry(str(fields["uri"]), str(fields["sha256"]), int(fields["size_bytes"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return entry if entry.uri == uri and _SHA256.fullmatch(entry.sha256) else None

    def _blob_path(self, sha256: str, filename: str) -> Path:
        return self._root / "blobs" / "sha256" / sha256 / filename

    def _index_path(self, uri: str) -> Path:
        return self._root / "index" / f"{_key(uri)}.json"

    def _lock_path(self, key: str) -> Path:
        return self._root / "locks" / f"{key}.lock"


def digest_mismatch(uri: str, actual: str, expected: str) -> CorruptArtifact:
    return CorruptArtifact(f"{uri} has the SHA-256 {actual}; expected {expected}", field="sha256")


def _key(uri: str) -> str:
    return hashlib.sha256(uri.encode()).hexdigest()[:32]
