"""Bytes on the local disk: hashed when read, flushed when written, and the errors of a full disk.

It does not know where the bytes come from nor where they are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mesh.errors import DiskFull, Unavailable
from mesh.storage.progress import Advance

_CHUNK_BYTES = 4 << 20
# A quota and a file-size limit are to the caller what a full disk is: this file does not fit here.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class StagedFile:
    """A whole file that is not in the cache yet, and what was computed while it was written."""

    path: Path
    sha256: str
    size_bytes: int


def sha256_of(path: Path, advance: Advance) -> str:
    """The SHA-256 of the file at `path` in hex; about 2 s per GB."""
    digest = hashlib.sha256()
    done_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return digest.hexdigest()


def copy_hashed(source: IO[bytes], target: Path, advance: Advance) -> StagedFile:
    """Copy `source` into the new file `target`, which is on the disk when this returns."""
    digest = hashlib.sha256()
    done_bytes = 0
    with target.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
        file.flush()
        os.fsync(file.fileno())
    return StagedFile(target, digest.hexdigest(), done_bytes)


def write_whole(path: Path, content: bytes, temporary: Path) -> None:
    """Put `content` at `path` whole or not at all, by way of `temporary` on the same file system."""
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    rename_durably(temporary, path)


def rename_durably(source: Path, target: Path) -> None:
    """Rename, then flush the folder: a rename is durable only once its folder is."""
    source.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def writing(uri: str, folder: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn what the file system refuses inside this block into DiskFull or Unavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(uri, folder, needed_bytes) from error
        raise Unavailable(f"cannot store {uri} in {folder}: {error.strerror or error}") from error


def require_space(uri: str, folder: Path, needed_bytes: int) -> None:
    """Raise DiskFull now rather than after gigabytes were written."""
    if shutil.disk_usage(folder).free < needed_bytes:
        raise disk_full(uri, folder, needed_bytes)


def disk_full(uri: str, folder: Path, needed_bytes: int | None) -> DiskFull:
    """`needed_bytes` is None where the size is not known yet."""
    needed = f"needs {needed_bytes:,} bytes" if needed_bytes is not None else "needs an unknown number of bytes"
    free = f"{shutil.disk_usage(folder).free:,}" if folder.exists() else "an unknown number"
    return DiskFull(
        f"no space left for {uri}: it {needed} in {folder}, where {free} are free; "
        "free some space, lift the quota, or choose another cache directory"
    )
