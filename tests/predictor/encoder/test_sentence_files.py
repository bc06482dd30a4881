"""The files of sentence-transformers: what they say, and which modules are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mesh.errors import CorruptArtifact, MeshError, Unsupported
from predictor.encoder.sentence_files import SentenceFiles, read_sentence_files
from tests.predictor.small_encoders import change_json, write_json, write_sentence_files


def test_folder_without_them_is_pooled_by_the_mean_and_not_normalized(tmp_path: Path) -> None:
    assert read_sentence_files(tmp_path, 32) == SentenceFiles("mean", False, None, False)


@pytest.mark.parametrize(("flag", "pooling"), [("cls_token", "cls"), ("mean_tokens", "mean"), ("max_tokens", "max")])
def test_pooling_normalization_and_length_are_read(tmp_path: Path, flag: str, pooling: str) -> None:
    write_sentence_files(tmp_path, pooling=f"pooling_mode_{flag}", max_tokens=256)
    change_json(tmp_path / "sentence_bert_config.json", do_lower_case=True)

    assert read_sentence_files(tmp_path, 32) == SentenceFiles(pooling, True, 256, True)


def test_newer_form_of_pooling_is_read(tmp_path: Path) -> None:
    write_sentence_files(tmp_path, normalize=False)
    write_json(tmp_path / "1_Pooling" / "config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})

    assert read_sentence_files(tmp_path, 32) == SentenceFiles("cls", False, 16, False)


@pytest.mark.parametrize(
    ("name", "content", "kind", "message"),
    [
        ("modules.json", {}, CorruptArtifact, "'modules' is of type dict"),
        ("modules.json", ["x"], CorruptArtifact, "a module is no object"),
        ("modules.json", [{"path": ""}], CorruptArtifact, "'type' is missing"),
        ("modules.json", [], Unsupported, "modules  are not supported"),
        ("modules.json", [{"type": "a.Transformer", "path": "../x"}], CorruptArtifact, "path '../x' is no folder"),
        (
            "modules.json",
            [{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "1_Pooling"}, {"type": "a.Dense"}],
            Unsupported,
            "'Transformer', 'Pooling', 'Dense' are not supported",
        ),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "word_embedding_dimension": 31}, CorruptArtifact,
         "vectors of 31 numbers; the encoder's have 32"),
        ("1_Pooling/config.json", {}, Unsupported, "pooling none is not supported"),
        ("1_Pooling/config.json", {"pooling_mode_lasttoken": True}, Unsupported, "pooling 'lasttoken' is not"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, Unsupported,
         "pooling 'cls', 'mean' is not supported"),
        ("sentence_bert_config.json", {"max_seq_length": 0}, CorruptArtifact, "'max_seq_length' is 0"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, CorruptArtifact, "'max_seq_length' is of type str"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, Unsupported, "default prompt 'query'"),
    ],
)  # fmt: skip
def test_what_would_change_the_vectors_is_refused(
    tmp_path: Path, name: str, content: Any, kind: type[MeshError], message: str
) -> None:
    write_json(write_sentence_files(tmp_path) / name, content)

    with pytest.raises(kind, match=message):
        read_sentence_files(tmp_path, 32)


def test_module_whose_folder_is_missing_is_corrupt(tmp_path: Path) -> None:
    (write_sentence_files(tmp_path) / "1_Pooling" / "config.json").unlink()

    with pytest.raises(CorruptArtifact, match=r"names 1_Pooling/config\.json, which does not exist"):
        read_sentence_files(tmp_path, 32)
