"""Which version of a model a request means."""

from __future__ import annotations

import pytest

from mesh.errors import InvalidInput, ModelNotFound
from predictor.model_versions import ModelVersions
from tests.predictor.fake_runtime import spec


@pytest.fixture
def versions() -> ModelVersions[str]:
    specs = [spec("a", version="2"), spec("a", version="10"), spec("a", version="canary"), spec("b")]
    return ModelVersions((each, f"{each.name}{each.version}") for each in specs)


@pytest.mark.parametrize(("version", "found"), [("", "a2"), ("2", "a2"), ("10", "a10"), ("canary", "acanary")])
def test_no_version_means_the_first(versions: ModelVersions[str], version: str, found: str) -> None:
    assert versions.find("a", version) == versions.get("a", version) == found


@pytest.mark.parametrize(
    ("name", "version", "error", "sentence"),
    [
        ("c", "", ModelNotFound, "model 'c' is not deployed; deployed: a, b"),
        ("a", "3", ModelNotFound, "model 'a' has no version 3; it has 2, 10, canary"),
        ("a", "newest", InvalidInput, "'newest' is no version; versions are whole numbers"),
        ("a", "-1", InvalidInput, "'-1' is no version"),
        ("a", "²", InvalidInput, "is no version"),
    ],
)
def test_what_does_not_exist_is_told_apart(
    versions: ModelVersions[str], name: str, version: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        versions.find(name, version)
    with pytest.raises(error):
        versions.find_all(name, version or "x")
    assert versions.get(name, version) is None


def test_all_versions_come_in_the_order_of_the_deployment(versions: ModelVersions[str]) -> None:
    assert list(versions) == ["a2", "a10", "acanary", "b1"]
    assert versions.names("a") == ["2", "10", "canary"]
    assert versions.find_all("a") == ["a2", "a10", "acanary"]
    assert versions.find_all("a", "10") == ["a10"]
    with pytest.raises(ModelNotFound):
        versions.names("c")
