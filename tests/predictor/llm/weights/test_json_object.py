"""JSON of strangers: what is read, and that everything else is one clear error."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import CorruptArtifact, NotFound
from predictor.llm.weights.json_object import JsonObject, read_bounded

SAMPLE = JsonObject.parse(
    b'{"n": 3, "x": 0.5, "yes": true, "s": "text", "none": null, "o": {"k": 1}, "a": [1]}', "config.json"
)


def test_values_keep_their_types() -> None:
    assert SAMPLE.integer("n") == 3
    assert SAMPLE.number("x") == 0.5
    assert SAMPLE.number("n") == 3.0
    assert SAMPLE.boolean("yes") is True
    assert SAMPLE.string("s") == "text"
    assert SAMPLE.child("o").integer("k") == 1
    assert SAMPLE.array("a") == [1]


def test_null_is_absent() -> None:
    assert not SAMPLE.has("none")
    assert SAMPLE.integer("none", 5) == 5
    assert SAMPLE.child("none").values == {}


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda o: o.integer("yes"), "config.json: 'yes' is of type bool; it must be an integer"),
        (lambda o: o.integer("absent"), "config.json: 'absent' is missing; it must be an integer"),
        (lambda o: o.number("s"), "it must be a finite number"),
        (lambda o: o.boolean("n"), "it must be a boolean"),
        (lambda o: o.string("n"), "it must be a string"),
        (lambda o: o.child("a"), "it must be an object"),
        (lambda o: o.array("o"), "it must be an array"),
        (lambda o: o.child("o").string("k"), "config.json: 'o': 'k' is of type int; it must be a string"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(read: Callable[[JsonObject], object], message: str) -> None:
    with pytest.raises(CorruptArtifact) as caught:
        read(SAMPLE)

    assert message in caught.value.message


@pytest.mark.parametrize("value", ["1e999", "NaN", "-Infinity", "9" * 400])
def test_a_number_must_be_finite(value: str) -> None:
    with pytest.raises(CorruptArtifact, match="it must be a finite number"):
        JsonObject.parse(f'{{"x": {value}}}'.encode(), "f").number("x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b"[1]", "holds no JSON object"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b'{"a": 1, "a": 2}', "key 'a' appears twice"),
        (b'{"o": {"b": 1, "b": 1}}', "key 'b' appears twice"),
        (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "not valid JSON"),
    ],
)
def test_what_is_no_object_is_corrupt(content: bytes, message: str) -> None:
    with pytest.raises(CorruptArtifact, match=message):
        JsonObject.parse(content, "f")


@given(st.binary(max_size=50))
def test_any_bytes_are_an_object_or_corrupt(content: bytes) -> None:
    for text in (content, b"{" + content + b"}"):
        try:
            JsonObject.parse(text, "f")
        except CorruptArtifact:
            continue


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'{"a": 1}')

    assert JsonObject.read(path, 8).integer("a") == 1
    with pytest.raises(CorruptArtifact, match="the file is larger than 7 bytes"):
        read_bounded(path, 7)
    with pytest.raises(NotFound, match="model file 'absent.json' does not exist"):
        read_bounded(tmp_path / "absent.json", 7)
    assert JsonObject.read_optional(tmp_path / "absent.json", 7).values == {}


def test_memory_is_taken_for_the_file_and_not_for_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_bytes(b'{"a": 1}')
    tracemalloc.start()
    try:
        read_bounded(path, 1 << 30)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak_bytes < 4 << 20
