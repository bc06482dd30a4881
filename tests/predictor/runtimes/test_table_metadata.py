"""metadata.json: its lists, and what in it is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mesh.errors import CorruptArtifact
from predictor.runtimes.table_metadata import TableMetadata, read_table_metadata

WHOLE = {
    "feature_names": ["a", "b"],
    "feature_baseline": [1, 2.5],
    "feature_datatypes": ["FP64", "BYTES"],
    "class_names": ["no", "yes"],
}


def test_the_lists_become_parameters(tmp_path: Path) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps({**WHOLE, "author": "somebody"}))

    metadata = read_table_metadata(tmp_path)
    metadata.check(num_features=2, num_classes=2)

    assert {name: json.loads(text) for name, text in metadata.parameters().items()} == WHOLE


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()

    assert read_table_metadata(tmp_path) == read_table_metadata(tmp_path / "model.bin") == TableMetadata()
    assert TableMetadata().parameters() == {}


def test_the_file_s_names_come_before_the_model_s_own() -> None:
    assert TableMetadata().named(("x",)).feature_names == ("x",)
    assert TableMetadata(feature_names=("a",)).named(("x",)).feature_names == ("a",)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("\udc80", "is no JSON"),
        ('{"feature_baseline": [NaN]}', "NaN is no JSON number"),
        ("[]", "must hold a JSON object"),
        ('{"feature_names": "a"}', "'feature_names' must be a list of texts"),
        ('{"feature_names": [1]}', "'feature_names' must be a list of texts"),
        ('{"feature_baseline": [true]}', "'feature_baseline' must be a list of numbers"),
        ('{"feature_datatypes": ["FP8"]}', "'feature_datatypes' has 'FP8'; valid are FP64, INT64, BOOL, BYTES"),
        (" " * (1 << 20) + "{}", "bytes; at most 1048576"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "metadata.json").write_text(text, errors="surrogateescape")

    with pytest.raises(CorruptArtifact, match=sentence):
        read_table_metadata(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        (TableMetadata(feature_names=("a",)), "'feature_names' has 1 entries; the model takes 2 features"),
        (TableMetadata(class_names=("a",)), "'class_names' has 1 entries; the model has 3 classes"),
    ],
)
def test_what_does_not_fit_the_model_is_named(metadata: TableMetadata, sentence: str) -> None:
    with pytest.raises(CorruptArtifact, match=sentence):
        metadata.check(num_features=2, num_classes=3)
