"""Artifacts on this machine stay where they are and are verified there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact, InvalidInput, NotFound
from mesh.storage import Cache, Report
from mesh.storage.disk import folder_digest
from mesh.storage.file import FileStore, local_path

DIGEST = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "my model.bin"
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}", "FILE://{}"])
async def test_file_is_given_in_place(model: Path, form: str, tmp_path: Path, ignore: Report) -> None:
    cache_dir = tmp_path / "cache"

    path = await FileStore().fetch(form.format(model), sha256=DIGEST, cache=Cache(cache_dir), report=ignore)

    assert path == model
    assert not cache_dir.exists()


async def test_percent_encoding_is_read_in_uris_only(model: Path) -> None:
    assert local_path(model.as_uri()) == model
    assert local_path("/a%20b") == Path("/a%20b")


async def test_wrong_digest_names_both_and_the_uri(model: Path, tmp_path: Path, ignore: Report) -> None:
    with pytest.raises(CorruptArtifact) as caught:
        await FileStore().fetch(str(model), sha256="0" * 64, cache=Cache(tmp_path), report=ignore)

    assert str(model) in caught.value.message
    assert DIGEST in caught.value.message
    assert "0" * 64 in caught.value.message


async def test_folder_is_verified_by_the_digest_over_its_files(model: Path, tmp_path: Path, ignore: Report) -> None:
    digest = folder_digest({model.name: DIGEST})

    for sha256 in (None, digest):
        path = await FileStore().fetch(str(model.parent), sha256=sha256, cache=Cache(tmp_path), report=ignore)
        assert path == model.parent
    with pytest.raises(CorruptArtifact, match=digest):
        await FileStore().fetch(str(model.parent), sha256=DIGEST, cache=Cache(tmp_path), report=ignore)


async def test_pipe_is_refused_and_does_not_hang(tmp_path: Path, ignore: Report) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    with pytest.raises(InvalidInput, match="neither a regular file nor a folder"):
        await FileStore().fetch(str(pipe), sha256=None, cache=Cache(tmp_path), report=ignore)


@pytest.mark.parametrize("name", ["absent", "my model.bin/below"])
async def test_absent_file_is_not_found(model: Path, name: str, ignore: Report) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        await FileStore().fetch(str(model.parent / name), sha256=None, cache=Cache(model), report=ignore)


@pytest.mark.parametrize("uri", ["", "a\0b", "file://host/a", "file:///a?b", "file://", "file:///a%00b", "file://["])
def test_malformed_uri_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        local_path(uri)

    assert caught.value.field == "uri"
