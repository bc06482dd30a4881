"""Every mistake in a model class has a sentence that says what to write instead."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from predictor.runtimes.python.user_class import ClassMistake, check_answer, find_class, read_declaration

_names = (f"model_{number}" for number in itertools.count())

ROWS = {"rows": ("FP32", [-1, 4])}


def module_in(folder: Path, source: str) -> str:
    """Writes a module with a name of its own, since this process imports it; returns the name."""
    name = next(_names)
    (folder / f"{name}.py").write_text(source)
    return name


def declared(**attributes: Any) -> Any:
    return SimpleNamespace(**{"inputs": ROWS, "outputs": ROWS, "infer": lambda inputs: inputs, **attributes})


def test_the_one_class_that_infers_is_found_among_others(tmp_path: Path) -> None:
    name = module_in(
        tmp_path, "import pathlib\nclass Table: pass\nclass Scaler:\n    def infer(self, inputs): return inputs\n"
    )

    assert find_class(tmp_path, f"{name}:").__name__ == "Scaler"


def test_a_class_may_be_named_and_import_its_neighbours(tmp_path: Path) -> None:
    neighbour = module_in(tmp_path, "FACTOR = 3\n")
    name = module_in(tmp_path, f"from {neighbour} import FACTOR\nclass A: factor = FACTOR\nclass B: pass\n")

    assert find_class(tmp_path, f"{name}:A").__dict__["factor"] == 3


@pytest.mark.parametrize(
    ("source", "wanted", "sentence"),
    [
        ("class Table: pass", "", "has no class with a method 'infer' or 'infer_stream'; it has Table"),
        ("x = 1", "", "it has none"),
        (
            "class A:\n  def infer(self): ...\nclass B:\n  def infer_stream(self): ...",
            "",
            "2 classes that could be the model: A, B; name one by the option model_class",
        ),
        ("class Table: pass", "Missing", "has no class 'Missing'; it has Table"),
        ("Table = 3", "Table", "has no class 'Table'; it has none"),
    ],
)
def test_a_module_without_the_class_says_what_it_has(tmp_path: Path, source: str, wanted: str, sentence: str) -> None:
    name = module_in(tmp_path, source)

    with pytest.raises(ClassMistake, match=sentence):
        find_class(tmp_path, f"{name}:{wanted}")


@pytest.mark.parametrize(
    ("model_class", "sentence"),
    [
        ("", r"has no model\.py"),
        ("absent:A", r"has no absent\.py"),
        ("../up:A", "the module '../up', which is no name"),
    ],
)
def test_a_module_that_is_not_there_is_named(tmp_path: Path, model_class: str, sentence: str) -> None:
    with pytest.raises(ClassMistake, match=sentence):
        find_class(tmp_path, model_class)


def test_a_declaration_is_read_with_its_optional_inputs() -> None:
    declaration = read_declaration(
        declared(inputs={"text": ("BYTES", [1]), "limit": ["INT32", (1,), "optional"]}, outputs={"n": ("INT64", [])})
    )

    assert [(spec.name, spec.is_optional) for spec in declaration.inputs] == [("text", False), ("limit", True)]
    assert declaration.outputs[0].shape == ()
    assert (declaration.max_batch_size, declaration.has_infer, declaration.has_stream) == (0, True, False)


def test_the_option_for_the_batch_size_comes_before_the_class() -> None:
    assert read_declaration(declared(max_batch_size=8)).max_batch_size == 8
    assert read_declaration(declared(max_batch_size=8), max_batch_size=4).max_batch_size == 4


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        ({"inputs": None}, "'inputs' must be a dict of tensors by name, for example inputs = .* it is missing"),
        ({"outputs": {}}, "'outputs' must be a dict .* it is {}"),
        ({"inputs": ["rows"]}, "'inputs' must be a dict"),
        ({"inputs": {3: ("FP32", [1])}}, "'inputs': tensor 3 has no name"),
        ({"inputs": {"rows": "FP32"}}, "'inputs': tensor 'rows' is 'FP32'; write it as in "),
        ({"inputs": {"rows": ("FP32", [1], "maybe")}}, "a third entry may be 'optional'"),
        ({"outputs": {"rows": ("FP32", [1], "optional")}}, "'rows' is optional; every output is in every answer"),
        ({"outputs": {"rows": ("float32", [1])}}, "has datatype 'float32'; valid are BOOL, UINT8"),
        ({"outputs": {"rows": ("FP32", 4)}}, "has shape 4; write a list of whole numbers"),
        ({"outputs": {"rows": ("FP32", [0])}}, r"has shape \[0\]; write a list"),
        ({"outputs": {"rows": ("FP32", [-1.0])}}, r"has shape \[-1.0\]; write a list"),
        ({"max_batch_size": -1}, "'max_batch_size' is -1; it must be a whole number from 0 to"),
        (
            {"max_batch_size": 4, "outputs": {"n": ("FP32", [1])}},
            r"'n' has the shape \[1\]; with a max_batch_size of 4",
        ),
    ],
)
def test_a_wrong_declaration_says_what_to_write(attributes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ClassMistake, match=sentence):
        read_declaration(declared(**attributes))


def test_a_right_answer_is_sent_in_the_order_of_the_declaration() -> None:
    declaration = read_declaration(declared(outputs={"b": ("BYTES", [-1]), "a": ("FP32", [])}))
    texts = np.array([b"x", b""], dtype=object)

    named = check_answer(declaration, {"a": np.zeros((), np.float32), "b": texts}, None)

    assert [(entry.name, entry.datatype) for entry in named] == [("b", "BYTES"), ("a", "FP32")]


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (None, r"the model returned None \(it has no return statement\)"),
        (np.zeros((2, 4)), "a dict of arrays by output name; the model returned a ndarray"),
        ({}, r"the answer lacks output 'rows'; it has \[\]"),
        (
            {"rows": np.zeros((2, 4), np.float32), "more": 1},
            r"has 'more', which is not declared; outputs are \['rows'\]",
        ),
        ({"rows": [[1.0, 2.0, 3.0, 4.0]]}, "output 'rows' is a list; it must be a numpy array"),
        ({"rows": np.zeros((2, 4))}, "'rows' has dtype float64; it is declared FP32, so return it as np.float32"),
        ({"rows": np.zeros((2, 3), np.float32)}, r"'rows' has shape \[2, 3\]; it is declared \[-1, 4\]"),
        ({"rows": np.zeros(4, np.float32)}, r"'rows' has shape \[4\]; it is declared \[-1, 4\]"),
        ({"rows": np.zeros((3, 4), np.float32)}, "has 3 rows for a batch of 2; each row gets its own answer"),
    ],
)
def test_a_wrong_answer_says_what_was_declared(answer: object, sentence: str) -> None:
    declaration = read_declaration(declared(max_batch_size=8))

    with pytest.raises(ClassMistake, match=sentence):
        check_answer(declaration, answer, 2)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.array(["text"]), "it is declared BYTES, so return it as an array of bytes with dtype object"),
        (np.array(["text"], dtype=object), "'b' holds a str; elements of BYTES are bytes"),
    ],
)
def test_texts_are_returned_as_bytes(array: Any, sentence: str) -> None:
    declaration = read_declaration(declared(outputs={"b": ("BYTES", [-1])}))

    with pytest.raises(ClassMistake, match=sentence):
        check_answer(declaration, {"b": array}, None)
