"""Mapping a file: the whole of it, or one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact, NotFound, Unavailable
from predictor.llm.weights.mapped_file import map_file


def test_the_whole_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"weights")

    with map_file(tmp_path / "f") as mapped:
        assert mapped[:] == b"weights"


def test_what_cannot_be_mapped_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    with pytest.raises(NotFound, match="model file 'absent' does not exist"):
        map_file(tmp_path / "absent")
    with pytest.raises(CorruptArtifact, match="empty: the file is empty"):
        map_file(tmp_path / "empty")
    with pytest.raises(Unavailable, match="cannot be read: Is a directory"):
        map_file(tmp_path)
