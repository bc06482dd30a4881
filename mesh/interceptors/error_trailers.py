"""What a status code alone would lose of a MeshError, carried in trailing metadata: its class, its field, its delay.

A code has many classes: INVALID_ARGUMENT may be a prompt that is too long, which OpenAI's clients know by a code of its
own. A peer that sends no such trailers (another server, a broken connection) is understood by its status.
"""

from __future__ import annotations

from collections.abc import Iterable

from mesh.errors import MeshError, from_code_number

CLASS = "mesh-error"
FIELD = "mesh-error-field"
RETRY_AFTER = "retry-after-s"

_NAMES = (CLASS, FIELD, RETRY_AFTER)
_MAX_CHARS = 128

Trailers = tuple[tuple[str, str], ...]


def trailers_of(error: MeshError) -> Trailers:
    """The trailers to send with the error's status."""
    trailers = [(CLASS, type(error).__name__)]
    if error.field and len(error.field) <= _MAX_CHARS and error.field.isascii() and error.field.isprintable():
        trailers.append((FIELD, error.field))
    if error.retry_after_s is not None:
        trailers.append((RETRY_AFTER, f"{error.retry_after_s:g}"))
    return tuple(trailers)


def passed_on(trailers: Iterable[tuple[str, str | bytes]]) -> Trailers:
    """Those of a next hop's trailers that go on to the caller."""
    return tuple((name, value) for name, value in trailers if name in _NAMES and isinstance(value, str))


def error_from(number: int, message: str, trailers: Iterable[tuple[str, str | bytes]]) -> MeshError:
    """The error that a peer raised, from its status and trailers."""
    found = dict(passed_on(trailers))
    error = from_code_number(number, message, name=found.get(CLASS, ""), field=found.get(FIELD))
    if RETRY_AFTER in found:
        error.retry_after_s = _seconds(found[RETRY_AFTER], error.retry_after_s)
    return error


def _seconds(text: str, default: float | None) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return default
    return seconds if 0 <= seconds <= 3600 else default
