"""What an output must look like, from JSON to mesh.v1.Guide.

Knows the kinds, their types and how large they may be. Whether a schema, an expression or a grammar is valid, the
predictor says, whose grammar library must read it anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import orjson

from gateway.rest.bodies import Json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

MAX_SOURCE_BYTES = 256 * 1024
MAX_GUIDE_CHOICES = 1024


@dataclass(frozen=True, slots=True)
class Given:
    """field: as the client wrote it. kind: a member of mesh.v1.Guide. value: None asks for nothing."""

    field: str
    kind: str
    value: Json


def only_guide(given: Iterable[Given]) -> tuple[str, lm.Guide] | None:
    """The guide that was given and the field that gave it; None without. Raises InvalidInput for more than one."""
    found = [(one.field, guide) for one in given if (guide := _guide(one)) is not None]
    if len(found) > 1:
        raise InvalidInput(
            f"'{found[0][0]}' and '{found[1][0]}' both say what the output must look like; give one of them",
            field=found[1][0],
        )
    return found[0] if found else None


def _guide(given: Given) -> lm.Guide | None:
    return None if given.value is None else _READERS[given.kind](given.value, given.field)


def _json_schema(value: Json, field: str) -> lm.Guide:
    if isinstance(value, dict):
        return lm.Guide(json_schema=bounded_json(value, field, MAX_SOURCE_BYTES))
    return lm.Guide(json_schema=_source(value, field, "a JSON schema: an object, or the text of one"))


def _regex(value: Json, field: str) -> lm.Guide:
    return lm.Guide(regex=_source(value, field, "a regular expression as a string"))


def _grammar(value: Json, field: str) -> lm.Guide:
    return lm.Guide(grammar=_source(value, field, "a grammar as a string"))


def _choices(value: Json, field: str) -> lm.Guide:
    is_list = isinstance(value, list) and 1 <= len(value) <= MAX_GUIDE_CHOICES
    if not is_list or not all(isinstance(text, str) and text for text in value):
        raise InvalidInput(
            f"'{field}' must be a list of 1 to {MAX_GUIDE_CHOICES} strings, none of them empty", field=field
        )
    _check_size(sum(len(text.encode()) for text in value), field, MAX_SOURCE_BYTES)
    return lm.Guide(choices=lm.Choices(texts=value))


def _json_object(value: Json, field: str) -> lm.Guide | None:
    if not isinstance(value, bool):
        raise InvalidInput(f"'{field}' must be true or false", field=field)
    return lm.Guide(json_object=True) if value else None


_READERS: dict[str, Callable[[Json, str], lm.Guide | None]] = {
    "json_schema": _json_schema,
    "regex": _regex,
    "grammar": _grammar,
    "choices": _choices,
    "json_object": _json_object,
}


def _source(value: Json, field: str, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"'{field}' must be {what}", field=field)
    _check_size(len(value.encode()), field, MAX_SOURCE_BYTES)
    return value


def bounded_json(value: Json, field: str, max_bytes: int) -> str:
    """`value` as JSON text. Raises InvalidInput when it is nested too deep or longer than `max_bytes`."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        # The library reads 1024 levels and writes 254; nothing else that it reads can it not write.
        raise InvalidInput(f"'{field}' is nested too deep", field=field) from None
    _check_size(len(text), field, max_bytes)
    return text.decode()


def _check_size(size_bytes: int, field: str, max_bytes: int) -> None:
    if size_bytes > max_bytes:
        raise InvalidInput(f"'{field}' has {size_bytes} bytes; the limit is {max_bytes}", field=field)
