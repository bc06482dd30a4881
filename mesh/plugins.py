"""Plug-ins by name: a table of "module:Name" strings, resolved when one is asked for.

One file and one row add a plug-in, and importing a package does not import what its plug-ins need.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mesh.errors import NotFound


def load(table: Mapping[str, str], name: str, what: str) -> Any:  # Any: the caller knows the plug-in's port
    """The object that `table` has for `name`; `what` says in an error what kind of thing it is.

    Raises NotFound that lists the known names.
    """
    try:
        target = table[name]
    except KeyError:
        raise NotFound(f"unknown {what} '{name}'; known are: {', '.join(sorted(table))}") from None
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
