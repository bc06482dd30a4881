"""What is wrong with a body is one sentence, with the path that a client knows."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from gateway.rest.validation import Strict, validated
from mesh.errors import InvalidInput


class Inner(Strict, extra="forbid"):
    kind: Literal["a", "b"] | None = None
    schema_: Annotated[int | None, Field(alias="schema")] = None


class Outer(Strict):
    inner: Inner | list[Inner] | None = None
    count: Annotated[int, Field(le=3)]


@pytest.mark.parametrize(
    ("body", "field", "says"),
    [
        ({}, "count", "'count' is required"),
        ({"count": 4}, "count", "'count' is wrong: input should be less than or equal to 3"),
        ({"count": "secret"}, "count", "'count' is wrong: input should be a valid integer"),
        ({"count": 1, "inner": {"kind": "c"}}, "inner.kind", "input should be 'a' or 'b'"),
        ({"count": 1, "inner": {"schema": "x"}}, "inner.schema", "valid integer"),
        ({"count": 1, "inner": [{}, {"kind": "c"}]}, "inner[1].kind", "input should be 'a' or 'b'"),
        ({"count": 1, "inner": {"other": 1}}, "inner", "'inner' has no field 'other'"),
    ],
)
def test_field_is_named_by_its_path_and_the_value_is_not_quoted(body: dict[str, Any], field: str, says: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        validated(Outer, body)

    assert raised.value.field == field
    assert says in raised.value.message
    assert "secret" not in raised.value.message


def test_fields_that_are_not_known_are_ignored() -> None:
    assert validated(Outer, {"count": 1, "more": 2}).count == 1
