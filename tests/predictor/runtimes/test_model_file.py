"""Which file of an artifact is the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact
from predictor.runtimes.model_file import find_model_file

SUFFIXES = (".ubj", ".json")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.json", "model.ubj"], "model.ubj"),
        (["model.json", "other.ubj"], "model.json"),
        (["metadata.json", "churn-7.json"], "churn-7.json"),
        (["churn.ubj", "README.md"], "churn.ubj"),
    ],
)
def test_a_folder_s_model_is_found_by_its_name(tmp_path: Path, names: list[str], found: str) -> None:
    for name in names:
        (tmp_path / name).touch()

    assert find_model_file(tmp_path, SUFFIXES).name == found


def test_a_file_is_the_model_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "9f86d081").touch()

    assert find_model_file(tmp_path / "9f86d081", SUFFIXES) == tmp_path / "9f86d081"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["metadata.json", "x.txt"], r"has none of model\.ubj, model\.json"),
        (["a.json", "b.ubj"], r"has a\.json, b\.ubj; name one of them model\.ubj, model\.json"),
    ],
)
def test_none_or_several_are_refused(tmp_path: Path, names: list[str], sentence: str) -> None:
    for name in names:
        (tmp_path / name).touch()

    with pytest.raises(CorruptArtifact, match=sentence):
        find_model_file(tmp_path, SUFFIXES)
