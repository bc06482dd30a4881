"""Imports a library without packages that it would bring along, only to see whether they are there.

A package that is left out looks like one that is not installed. What was imported before stays as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Absent:
    """First on `sys.meta_path`: knows that the named packages, and what is inside of them, cannot be found."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.startswith(tuple(f"{one}." for one in self._names)) or name in self._names:
            raise ModuleNotFoundError(f"{name} is left out", name=name)


@contextmanager
def left_out(*names: str) -> Iterator[None]:
    """Within it, the packages `names` (dotted) cannot be imported."""
    finder = _Absent(names)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
