"""From a JSON object to a checked request; the first thing that is wrong becomes a sentence that names the field.

Types are strict. A sentence never quotes what the client wrote, which may be long or secret.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from gateway.rest.bodies import Json
from mesh.errors import InvalidInput


class Strict(BaseModel):
    """Base of what is read from a body: no conversions, and fields that are not known are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


def tag_of_type(value: Any) -> str:  # Any: JSON
    """For unions of objects that are told apart by their `type`: the tag of the member; no member's if it is none."""
    return f"#{value.get('type')}" if isinstance(value, dict) else "#"


def tag_of_text(value: Any) -> str:  # Any: JSON
    """For what may be a text, or a list of parts: "#text" or "#parts"."""
    return "#text" if isinstance(value, str) else "#parts"


R = TypeVar("R", bound=BaseModel)


def validated(kind: type[R], body: Mapping[str, Json]) -> R:
    """`body` as a `kind`. Raises InvalidInput; its `field` is the path of what is wrong, as OpenAI writes `param`."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        complaints = error.errors(include_url=False, include_input=False, include_context=False)
        raise _sentence(complaints, _field_names(kind)) from None


def _sentence(complaints: list[ErrorDetails], field_names: frozenset[str]) -> InvalidInput:
    # Of a union all members complain; that a part's type is unknown says more than that a list is no string.
    first = next((one for one in complaints if one["type"] == "literal_error"), complaints[0])
    path = _path(first["loc"], field_names)
    complaint = f"{first['msg'][0].lower()}{first['msg'][1:]}"
    if first["type"] == "missing":
        return InvalidInput(f"'{path}' is required", field=path)
    if first["type"] == "extra_forbidden":
        owner = _path(first["loc"][:-1], field_names)
        whose = f"'{owner}'" if owner else "the request"
        return InvalidInput(f"{whose} has no field {str(first['loc'][-1])[:64]!a}", field=owner or None)
    if first["type"] == "literal_error" and ".content[" in path:
        return InvalidInput(f"'{path}' is wrong: only parts of type 'text' are served yet", field=path)
    return InvalidInput(f"'{path}' is wrong: {complaint}", field=path)


def _path(location: tuple[int | str, ...], field_names: frozenset[str]) -> str:
    """`location` without the names that pydantic gives to the members of a union."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if _is_field(part, field_names)]
    return "".join(parts).removeprefix(".")


def _is_field(part: int | str, field_names: frozenset[str]) -> bool:
    return isinstance(part, int) or part in field_names


@functools.cache
def _field_names(kind: type[BaseModel]) -> frozenset[str]:
    """The names of the fields of `kind` and of all models within it, as clients write them."""
    names = set()
    for name, field in kind.model_fields.items():
        names.add(field.alias or name)
        for inner in _models_in(field.annotation):
            names |= _field_names(inner)
    return frozenset(names)


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:  # Any: whatever may stand in an annotation
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
