"""What a scenario may expect besides plain values, and what of an answer is not as expected.

A status is expected as gRPC's name; a client of HTTP sees the number of `HTTP_STATUS` instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any  # values of scenarios are JSON

HTTP_STATUS = {
    "INVALID_ARGUMENT": "400",
    "NOT_FOUND": "404",
    "UNAVAILABLE": "503",
    "UNIMPLEMENTED": "501",
    "RESOURCE_EXHAUSTED": "413",
}


@dataclass(frozen=True)
class Includes:
    """Expected: a list that has at least these."""

    members: tuple[str, ...]

    def __init__(self, *members: str) -> None:
        object.__setattr__(self, "members", members)


@dataclass(frozen=True)
class AtLeast:
    """Expected: a number of at least this."""

    least: int


@dataclass(frozen=True)
class Contains:
    """Expected: a text with this in it."""

    part: str


def mismatch(expected: Any, seen: Any, where: str = "") -> str | None:
    """What of `seen` is not as expected, in words; None when all is. Objects may have more members than expected."""
    if isinstance(expected, Includes):
        missing = [] if not isinstance(seen, list) else [member for member in expected.members if member not in seen]
        return f"{where} is {seen}; {missing or 'a list'} is missing" if missing or not isinstance(seen, list) else None
    if isinstance(expected, AtLeast):
        is_right = isinstance(seen, int) and seen >= expected.least
        return None if is_right else f"{where} is {seen}; at least {expected.least} is expected"
    if isinstance(expected, Contains):
        is_right = isinstance(seen, str) and expected.part in seen
        return None if is_right else f"{where} is {seen!r}; '{expected.part}' is expected in it"
    if isinstance(expected, Mapping):
        if not isinstance(seen, Mapping):
            return f"{where} is {seen!r}; an object is expected"
        if "error" in seen and "error" not in expected:
            return f"{where} failed: {seen['error']} {seen.get('message', '')}"
        found = (mismatch(value, seen.get(key), f"{where}.{key}") for key, value in expected.items())
        return next((words for words in found if words), None)
    if isinstance(expected, list) and isinstance(seen, list) and len(expected) == len(seen):
        found = (
            mismatch(one, other, f"{where}[{i}]") for i, (one, other) in enumerate(zip(expected, seen, strict=True))
        )
        return next((words for words in found if words), None)
    if where.endswith(".error") and isinstance(seen, str) and seen == HTTP_STATUS.get(str(expected)):
        return None
    # A whole number may come as a float or not; true is no 1.
    is_right = expected == seen and isinstance(expected, bool) == isinstance(seen, bool)
    return None if is_right else f"{where} is {seen!r}; {expected!r} is expected"
