"""JSON from a model folder: bounded in size, without repeated keys, and read key by key with its type checked.

The files come from strangers. The size is known before anything is read, so a hostile file costs memory in proportion
to its limit, and one `CorruptArtifact` that names file and key.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from mesh.errors import CorruptArtifact, NotFound, Unavailable
from mesh.names import shown

_READ_BYTES = 1 << 20

# What a JSON document can hold. Deeper values are checked where they are read.
Value = str | int | float | bool | None | list["Value"] | dict[str, "Value"]


class JsonObject:
    """A JSON object and the name of the file it came from. A key whose value is null counts as absent."""

    def __init__(self, values: Mapping[str, Value], source: str) -> None:
        self.values = values
        self.source = source

    @classmethod
    def parse(cls, content: bytes, source: str) -> Self:
        """Raises CorruptArtifact for anything but one JSON object in UTF-8, each key once at every level."""
        try:
            values = json.loads(content.decode("utf-8"), object_pairs_hook=_without_repeats)
        except RecursionError as error:
            raise CorruptArtifact(f"{source}: the JSON is nested too deeply") from error
        except ValueError as error:
            raise CorruptArtifact(f"{source}: not valid JSON: {error}") from error
        if not isinstance(values, dict):
            raise CorruptArtifact(f"{source}: holds no JSON object")
        return cls(values, source)

    @classmethod
    def read(cls, path: Path, max_bytes: int) -> Self:
        """Parse a file of at most `max_bytes`. Raises NotFound when it is absent, else as `parse`."""
        return cls.parse(read_bounded(path, max_bytes), path.name)

    @classmethod
    def read_optional(cls, path: Path, max_bytes: int) -> Self:
        """As `read`, with an absent file as an empty object."""
        return cls.read(path, max_bytes) if path.is_file() else cls({}, path.name)

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """The value at `key`; CorruptArtifact when absent without a default, or no integer. So all below."""
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, value, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._wrong(key, value, "a finite number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self._wrong(key, value, "a finite number")
        return number

    def boolean(self, key: str, default: bool | None = None) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "a boolean")
        return value

    def string(self, key: str, default: str | None = None) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "a string")
        return value

    def child(self, key: str) -> JsonObject:
        """The object at `key`; an empty one when absent."""
        value = self._get(key, {})
        if not isinstance(value, dict):
            raise self._wrong(key, value, "an object")
        return JsonObject(value, f"{self.source}: {shown(key)}")

    def array(self, key: str) -> list[Value]:
        value = self._get(key, None)
        if not isinstance(value, list):
            raise self._wrong(key, value, "an array")
        return value

    def _get(self, key: str, default: Value) -> Value:
        value = self.values.get(key)
        return default if value is None else value

    def _wrong(self, key: str, value: Value, expected: str) -> CorruptArtifact:
        found = "missing" if value is None else f"of type {type(value).__name__}"
        return CorruptArtifact(f"{self.source}: {key!r} is {found}; it must be {expected}", field=key)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The content of a file; NotFound when absent, CorruptArtifact when it is larger than `max_bytes`."""
    content = bytearray()
    try:
        with path.open("rb") as file:
            # Bit by bit, and counted: a read of the whole would take memory for the limit at once, and a size asked
            # beforehand says nothing of what is not a regular file.
            while len(content) <= max_bytes and (part := file.read(_READ_BYTES)):
                content += part
    except FileNotFoundError as error:
        raise NotFound(f"model file {path.name!r} does not exist") from error
    except OSError as error:
        raise Unavailable(f"model file {path.name!r} cannot be read: {error.strerror}") from error
    if len(content) > max_bytes:
        raise CorruptArtifact(f"{path.name}: the file is larger than {max_bytes} bytes")
    return bytes(content)


def _without_repeats(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {shown(repeated)} appears twice")
    return values
