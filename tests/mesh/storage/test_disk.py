"""Bytes on disk, and what a full disk becomes."""

from __future__ import annotations

import errno
import hashlib
import io
from pathlib import Path

import pytest

from mesh.errors import DiskFull, Unavailable
from mesh.storage.disk import copy_hashed, require_space, sha256_of, size_of, write_whole, writing

CONTENT = bytes(range(256)) * 40_000  # more than two chunks


def test_copy_and_hash_agree(tmp_path: Path) -> None:
    counted: list[int] = []

    staged = copy_hashed(io.BytesIO(CONTENT), tmp_path / "copy", counted.append)

    assert staged.sha256 == hashlib.sha256(CONTENT).hexdigest() == sha256_of(staged.path, counted.append)
    assert staged.size_bytes == staged.path.stat().st_size == len(CONTENT)
    assert counted == 2 * [4 << 20, 8 << 20, len(CONTENT)]


def test_folder_has_the_digest_of_its_names_and_files(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(CONTENT)
    (tmp_path / "a-b").write_bytes(b"b")
    counted: list[int] = []

    digest = sha256_of(tmp_path, counted.append)

    lines = [f"{name}\0{hashlib.sha256(content).hexdigest()}\n" for name, content in (("a/x", CONTENT), ("a-b", b"b"))]
    assert digest == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert counted[-1] == size_of(tmp_path) == len(CONTENT) + 1
    assert counted == sorted(counted)


def test_a_folder_s_digest_follows_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "b").write_text("2")
    first = sha256_of(tmp_path, lambda _: None)

    (tmp_path / "b").rename(tmp_path / "c")
    renamed = sha256_of(tmp_path, lambda _: None)
    (tmp_path / "c").write_text("3")

    assert len({first, renamed, sha256_of(tmp_path, lambda _: None)}) == 3
    assert sha256_of(tmp_path / "a", lambda _: None) == hashlib.sha256(b"1").hexdigest()


def test_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "copy").write_bytes(b"mine")

    with pytest.raises(FileExistsError):
        copy_hashed(io.BytesIO(b"yours"), tmp_path / "copy", lambda _: None)


def test_write_whole_replaces(tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"old")

    write_whole(tmp_path / "index", b"new", tmp_path / "temporary")

    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert (tmp_path / "index").read_bytes() == b"new"


def test_full_disk_says_what_where_how_much_and_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DiskFull) as caught, writing("test://a", tmp_path, 12_345):
        raise OSError(errno.ENOSPC, "No space left on device")

    for part in ("test://a", "12,345 bytes", str(tmp_path), "free some space"):
        assert part in caught.value.message


def test_other_refusals_are_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="Permission denied") as caught, writing("test://a", tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")

    assert not isinstance(caught.value, DiskFull)


def test_what_cannot_fit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    require_space("test://a", tmp_path, 1)

    with pytest.raises(DiskFull):
        require_space("test://a", tmp_path, 1 << 60)
