"""The version is that of the installed distribution, or says that there is none."""

from __future__ import annotations

from importlib import metadata

from mesh.version import software_version


def test_version_is_the_distributions_own() -> None:
    installed = {distribution.metadata["Name"] for distribution in metadata.distributions()}

    assert software_version() == (metadata.version("meshserve") if "meshserve" in installed else "0")
