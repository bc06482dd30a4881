"""JSON that a stranger wrote: parsed only if it can be written again, as a prompt or as a schema."""

from __future__ import annotations

import json
from typing import NoReturn

from mesh.errors import InvalidInput

JsonObject = dict[str, object]

MAX_DEPTH = 64


def parse(text: str, field: str, max_bytes: int) -> object:
    """The value of `text`. Raises InvalidInput that names `field`: too long, no JSON, too deep, no UTF-8."""
    size_bytes = len(text.encode())
    if size_bytes > max_bytes:
        raise InvalidInput(f"{field} has {size_bytes} bytes; at most {max_bytes}", field=field)
    try:
        value = load(text)
    except ValueError as error:
        raise InvalidInput(f"{field} is not JSON: {error}", field=field) from None
    if _is_deeper_than(value, MAX_DEPTH):
        raise InvalidInput(f"{field} nests deeper than {MAX_DEPTH} levels", field=field)
    try:
        # An escape may stand for half of a surrogate pair, which no prompt can hold.
        write(value).encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{field} holds a lone surrogate, which no UTF-8 can express", field=field) from None
    return value


def load(text: str) -> object:
    """The value of `text`. Raises ValueError; NaN and Infinity, which Python alone reads, are no JSON."""
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it nests too deep") from None
    return value


def write(value: object) -> str:
    """One line of JSON, as templates' `tojson` writes it."""
    return json.dumps(value, ensure_ascii=False)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_deeper_than(value: object, num_levels: int) -> bool:
    level = [value]
    for _ in range(num_levels):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return any(isinstance(value, dict | list) for value in level)
