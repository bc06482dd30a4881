"""Artifacts that already lie on this machine: verified where they are, never copied, never cached."""

from __future__ import annotations

import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mesh.errors import InvalidInput, NotFound, Unavailable
from mesh.storage.cache import Cache, digest_mismatch
from mesh.storage.disk import sha256_of, size_of
from mesh.storage.progress import Report
from mesh.storage.worker import run_in_thread


class FileStore:
    """`file:///absolute/path` and plain paths, of files and of folders."""

    async def fetch(self, uri: str, *, sha256: str | None, cache: Cache, report: Report) -> Path:
        """The absolute path of `uri`; see `mesh.storage.Store.fetch`."""
        report("resolve", 0, None)
        path = local_path(uri)
        try:
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise InvalidInput(f"{uri} is neither a regular file nor a folder, so it has no SHA-256", field="uri")
            if sha256 is None:
                return path
            size_bytes = await run_in_thread(lambda _: size_of(path))
            actual = await run_in_thread(
                lambda advance: sha256_of(path, advance), lambda done: report("verify", done, size_bytes)
            )
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"there is no file {path}", field="uri") from None
        except OSError as error:
            raise Unavailable(f"cannot read {path}: {error.strerror}") from error
        if actual != sha256:
            raise digest_mismatch(uri, actual, sha256)
        return path


def local_path(uri: str) -> Path:
    """The absolute path that `uri` names; InvalidInput when it names another machine or nothing."""
    if not uri or "\0" in uri:
        raise InvalidInput(f"artifact URI {uri!r} names no file", field="uri")
    if not uri.lower().startswith("file://"):
        return Path(uri).absolute()
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise InvalidInput(f"artifact URI {uri!r} is malformed: {error}", field="uri") from None
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise InvalidInput(f"artifact URI {uri!r} is not of the form file:///absolute/path", field="uri")
    path = unquote(parts.path)
    if not path.startswith("/") or "\0" in path:
        raise InvalidInput(f"artifact URI {uri!r} is not of the form file:///absolute/path", field="uri")
    return Path(path)
