"""What a person types after --data: JSON, a file or stdin, as tensors of the model's inputs."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from cli.data import flat, input_tensors, read_data, rows_of, shape_of
from cli.failure import Failure

ONE = [{"name": "input", "datatype": "FP64"}]
TWO = [{"name": "a", "datatype": "FP32"}, {"name": "b", "datatype": "INT64"}]
TEXT = [{"name": "text_input", "datatype": "BYTES"}, {"name": "stream", "datatype": "BOOL"}]


def test_one_row_may_stand_without_its_outer_brackets() -> None:
    assert rows_of([1, 2]) == [[1, 2]]
    assert rows_of([[1, 2], [3, 4]]) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("value", [{}, [], 3, "x"])
def test_rows_are_a_list(value: object) -> None:
    with pytest.raises(Failure, match="must be a list of rows; write it like"):
        rows_of(value)


def test_an_object_names_several_inputs() -> None:
    tensors = input_tensors({"a": [[1.5]], "b": 3}, TWO)

    assert tensors == [
        {"name": "a", "datatype": "FP32", "shape": [1, 1], "data": [[1.5]]},
        {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
    ]


def test_a_language_models_input_is_its_text() -> None:
    assert input_tensors(["Once"], TEXT)[0]["name"] == "text_input"


def test_several_inputs_must_be_named() -> None:
    with pytest.raises(Failure, match="the model has the inputs a, b; name them like"):
        input_tensors([[1]], TWO)


def test_an_unknown_input_is_named_with_the_known_ones() -> None:
    with pytest.raises(Failure, match="the model has no input 'x'; it has input"):
        input_tensors({"x": [1]}, ONE)


def test_shapes_and_elements_of_nested_lists() -> None:
    assert shape_of([[1, 2, 3], [4, 5, 6]]) == [2, 3]
    assert shape_of([]) == [0]
    assert flat([[1, 2], [3, [4]]]) == [1, 2, 3, 4]


def test_text_that_is_no_json_says_where(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"--data is not JSON: .*line 1 column 4"):
        read_data("[[1")
    (tmp_path / "rows.json").write_text("{")
    with pytest.raises(Failure, match=r"rows\.json is not JSON"):
        read_data(f"@{tmp_path / 'rows.json'}")


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(Failure, match="cannot read '/no/such/file': No such file"):
        read_data("@/no/such/file")


def test_a_dash_reads_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[[1, 2]]"))

    assert read_data("-") == [[1, 2]]
