"""Finds a version of a model by the name and version of a request. Knows what is deployed, not what is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from mesh.errors import InvalidInput, ModelNotFound
from predictor.loader import ModelSpec

T = TypeVar("T")


class ModelVersions(Generic[T]):
    """A value per version of each model. The first version of a model is the one that requests without one get."""

    def __init__(self, values: Iterable[tuple[ModelSpec, T]]) -> None:
        self._models: dict[str, dict[str, T]] = {}
        for spec, value in values:
            self._models.setdefault(spec.name, {})[spec.version] = value

    def __iter__(self) -> Iterator[T]:
        """All values, in the order in which their models were deployed."""
        return (value for versions in self._models.values() for value in versions.values())

    def find(self, name: str, version: str) -> T:
        """Raises ModelNotFound, and InvalidInput for what is no version at all."""
        versions = self._versions(name)
        if not version:
            return next(iter(versions.values()))
        found = versions.get(version)
        if found is None:
            raise _no_version(name, version, versions)
        return found

    def get(self, name: str, version: str) -> T | None:
        """As `find`; None for what does not exist."""
        versions = self._models.get(name, {})
        return versions.get(version) if version else next(iter(versions.values()), None)

    def find_all(self, name: str, version: str = "") -> list[T]:
        """All versions of a model, or the one that is named. Raises as `find`."""
        return [self.find(name, version)] if version else list(self._versions(name).values())

    def names(self, name: str) -> list[str]:
        """The versions of a model, the one that requests without one get first. Raises ModelNotFound."""
        return list(self._versions(name))

    def _versions(self, name: str) -> dict[str, T]:
        versions = self._models.get(name)
        if versions is None:
            known = ", ".join(sorted(self._models)) or "none"
            raise ModelNotFound(f"model '{name}' is not deployed; deployed: {known}", field="model_name")
        return versions


def _no_version(name: str, version: str, known: Iterable[str]) -> InvalidInput | ModelNotFound:
    if not (version.isascii() and version.isdecimal()):
        return InvalidInput(f"'{version}' is no version; versions are whole numbers", field="model_version")
    return ModelNotFound(f"model '{name}' has no version {version}; it has {', '.join(known)}", field="model_version")
