"""Options of a runtime: the texts of a deployment, as a typed dataclass. The class is their only declaration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any, TypeVar

from mesh.errors import InvalidInput

OptionsT = TypeVar("OptionsT")

_BOOLEANS = {"true": True, "false": False}


def read_options(options: Mapping[str, str], options_class: type[OptionsT]) -> OptionsT:
    """An instance of the dataclass `options_class`, whose fields are str, int, float or bool with defaults.

    Raises InvalidInput that names the option for an unknown name or a text that is not of the field's type; the class
    itself checks ranges when it is made.
    """
    known: dict[str, Field[Any]] = {field.name: field for field in fields(options_class)}  # type: ignore[arg-type]
    unknown = sorted(options.keys() - known.keys())
    if unknown:
        raise InvalidInput(f"option '{unknown[0]}' is unknown; known are {', '.join(sorted(known))}", field="options")
    return options_class(**{name: _parse(name, text, known[name].default) for name, text in options.items()})


def _parse(name: str, text: str, default: object) -> object:
    kind = type(default)
    try:
        if kind is bool:
            return _BOOLEANS[text.strip().lower()]
        return kind(text)  # type: ignore[call-arg]
    except (ValueError, KeyError):
        raise InvalidInput(f"option '{name}' is '{text}'; it must be of type {kind.__name__}", field=name) from None
