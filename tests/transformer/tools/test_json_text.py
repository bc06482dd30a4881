"""JSON of strangers: a value that can be written again, or one sentence about what is wrong."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidInput
from transformer.tools.json_text import MAX_DEPTH, load, parse, write


def nested(num_levels: int) -> str:
    return "[" * num_levels + "]" * num_levels


def test_values_keep_their_order_and_characters() -> None:
    text = '{"b": "é<>", "a": [1.5, null, true]}'

    assert write(parse(text, "f", 100)) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "f is not JSON"),
        ("[1,]", "f is not JSON"),
        ("[NaN]", "NaN is no JSON number"),
        ("[1e999", "f is not JSON"),
        ("1" * 5000, "f is not JSON"),
        ('"' + "x" * 10_000 + '"', "f has 10002 bytes; at most 8192"),
        ('["\\ud800"]', "f holds a lone surrogate"),
        ('{"\\udfff": 1}', "f holds a lone surrogate"),
        (nested(MAX_DEPTH + 1), "f nests deeper than 64 levels"),
        ('{"a":' * 65 + "1" + "}" * 65, "f nests deeper than 64 levels"),
        (nested(4000), "f is not JSON: it nests too deep"),
    ],
)
def test_anything_else_is_an_error_that_names_the_field(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as caught:
        parse(text, "f", 8192)

    assert caught.value.field == "f"


def test_the_deepest_value_is_taken() -> None:
    assert write(parse(nested(MAX_DEPTH), "f", 8192)) == nested(MAX_DEPTH)


def test_infinity_is_no_json_to_load() -> None:
    with pytest.raises(ValueError, match="-Infinity"):
        load("-Infinity")
