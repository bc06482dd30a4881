"""The version of this software, as every service reports it."""

from __future__ import annotations

from importlib import metadata


def software_version() -> str:
    """The installed distribution's version; "0" in a source tree that is not installed."""
    try:
        return metadata.version("meshserve")
    except metadata.PackageNotFoundError:
        return "0"
