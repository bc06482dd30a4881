"""Bytes on the local disk: hashed when read, flushed when written, and the errors of a full disk.

An artifact is a file or a folder of files. It does not know where the bytes come from nor where they are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
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
    """A whole file or folder that is not in the cache yet, and what was computed while it was written."""

    path: Path
    sha256: str
    size_bytes: int


def sha256_of(path: Path, advance: Advance) -> str:
    """The SHA-256 of a file, or of a folder as `folder_digest` has it, in hex; about 2 s per GB."""
    if not path.is_dir():
        return _sha256_of_file(path, advance, 0)[0]
    digests: dict[str, str] = {}
    done_bytes = 0
    for file in _files_in(path):
        digests[file.relative_to(path).as_posix()], done_bytes = _sha256_of_file(file, advance, done_bytes)
    return folder_digest(digests)


def folder_digest(digests: Mapping[str, str]) -> str:
    """The SHA-256 over the names of a folder's files, relative and with "/", and their digests, in order of names."""
    whole = hashlib.sha256()
    for name in sorted(digests, key=lambda name: name.split("/")):
        whole.update(f"{name}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in _files_in(path))


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


def _sha256_of_file(path: Path, advance: Advance, done_bytes: int) -> tuple[str, int]:
    """The digest, and `done_bytes` with the file's own added."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            done_bytes += len(chunk)
            advance(done_bytes)
    return digest.hexdigest(), done_bytes


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
