"""The catalog's rules, over a store that is a few dicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Conflict, InvalidInput, ModelNotFound, NotFound
from registry.catalog import (
    MAX_TAGS,
    Catalog,
    DeploymentRecord,
    Model,
    ModelVersion,
    PromptVersion,
    check_generation,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class Memory:
    """The port Store in plain dicts: also the reference that the database is compared with."""

    def __init__(self) -> None:
        self.versions: dict[str, list[ModelVersion]] = {}
        self.aliases: dict[tuple[str, str], int] = {}
        self.prompts: dict[str, list[PromptVersion]] = {}
        self.specs: dict[str, tuple[int, str | None]] = {}
        self.seeds: dict[str, str] = {}

    def add_model_version(self, version: ModelVersion) -> ModelVersion:
        known = self.versions.setdefault(version.model_name, [])
        known.append(replace(version, version=len(known) + 1))
        return known[-1]

    def model_version(self, model_name: str, version: int) -> ModelVersion | None:
        known = self.versions.get(model_name, [])
        return known[version - 1] if 1 <= version <= len(known) else None

    def models(self) -> Sequence[Model]:
        return [
            Model(name, versions, {a: v for (m, a), v in self.aliases.items() if m == name})
            for name, versions in sorted(self.versions.items())
        ]

    def last_model_version(self, model_name: str) -> int:
        return len(self.versions.get(model_name, []))

    def set_alias(self, model_name: str, alias: str, version: int) -> None:
        self.aliases[model_name, alias] = version

    def alias(self, model_name: str, alias: str) -> int | None:
        return self.aliases.get((model_name, alias))

    def add_prompt_version(self, version: PromptVersion) -> PromptVersion:
        known = self.prompts.setdefault(version.prompt_name, [])
        known.append(replace(version, version=len(known) + 1))
        return known[-1]

    def prompt_version(self, prompt_name: str, version: int) -> PromptVersion | None:
        known = self.prompts.get(prompt_name, [])
        return known[version - 1] if 1 <= version <= len(known) else None

    def last_prompt_version(self, prompt_name: str) -> int:
        return len(self.prompts.get(prompt_name, []))

    def put_deployment(self, name: str, spec: str, expected_generation: int = 0) -> tuple[DeploymentRecord, bool]:
        generation, known = self.specs.get(name, (0, None))
        check_generation(name, 0 if known is None else generation, expected_generation)
        if known == spec:
            return DeploymentRecord(name, generation, spec), False
        self.specs[name] = (generation + 1, spec)
        return DeploymentRecord(name, generation + 1, spec), True

    def delete_deployment(self, name: str) -> bool:
        generation, known = self.specs.get(name, (0, None))
        if known is not None:
            self.specs[name] = (generation, None)
        return known is not None

    def deployments(self) -> Sequence[DeploymentRecord]:
        return [DeploymentRecord(n, g, s) for n, (g, s) in sorted(self.specs.items()) if s is not None]

    def seed(self, name: str) -> str | None:
        return self.seeds.get(name)

    def put_seed(self, name: str, spec: str) -> None:
        self.seeds[name] = spec


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(Memory(), lambda: NOW)


def draft(**fields: object) -> ModelVersion:
    return replace(ModelVersion("iris", "file:///m", "sklearn"), **fields)  # type: ignore[arg-type]


def test_number_and_time_are_the_registrys(catalog: Catalog) -> None:
    stored = catalog.create_model_version(draft(version=99, created_at=datetime(1999, 1, 1, tzinfo=UTC)))

    assert (stored.version, stored.created_at) == (1, NOW)


@given(st.text(max_size=12))
def test_only_the_canonical_number_finds_a_version(text: str) -> None:
    catalog = Catalog(Memory(), lambda: NOW)
    catalog.create_model_version(draft())
    try:
        assert catalog.model_version("iris", text).version == 1
        assert text == "1"
    except ModelNotFound:
        assert text != "1"


@pytest.mark.parametrize("alias", ["latest", "7", "", "a/b"])
def test_alias_that_could_be_taken_for_something_else_is_refused(catalog: Catalog, alias: str) -> None:
    catalog.create_model_version(draft())
    with pytest.raises(InvalidInput, match="alias"):
        catalog.set_model_alias("iris", alias, "1")


def test_alias_points_at_what_exists(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="model 'iris' does not exist"):
        catalog.set_model_alias("iris", "champion", "1")
    catalog.create_model_version(draft())
    catalog.set_model_alias("iris", "champion", "1")

    assert catalog.aliased_model_version("iris", "champion").version == 1


def test_tags_are_bounded(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="tags has 101 entries; the limit is 100"):
        catalog.create_model_version(draft(tags={f"t{number}": "" for number in range(MAX_TAGS + 1)}))
    with pytest.raises(InvalidInput, match="tags.a has 5001 characters"):
        catalog.create_model_version(draft(tags={"a": "x" * 5001}))


def test_prompt_must_say_something_within_its_limit(catalog: Catalog) -> None:
    with pytest.raises(InvalidInput, match="template is empty"):
        catalog.create_prompt_version(PromptVersion("greeting", "  \n"))
    with pytest.raises(InvalidInput, match="template has 1048577 characters"):
        catalog.create_prompt_version(PromptVersion("greeting", "x" * (1 << 20) + "x"))


def test_prompt_by_number_or_newest(catalog: Catalog) -> None:
    for template in ("a", "b"):
        catalog.create_prompt_version(PromptVersion("greeting", template))

    assert catalog.prompt_version("greeting", "").template == "b"
    assert catalog.prompt_version("greeting", "1").template == "a"
    with pytest.raises(NotFound, match="prompt 'greeting' has no version '3'; it has 1 to 2"):
        catalog.prompt_version("greeting", "3")


def test_deleting_what_is_not_deployed_is_not_found(catalog: Catalog) -> None:
    with pytest.raises(ModelNotFound, match="deployment 'iris' does not exist"):
        catalog.delete_deployment("iris")


def test_a_change_of_an_old_generation_is_a_conflict(catalog: Catalog) -> None:
    catalog.apply_deployment("iris", "a")

    assert catalog.apply_deployment("iris", "b", expected_generation=1)[0].generation == 2
    with pytest.raises(Conflict, match="'iris' is at generation 2, and the change was made to generation 1"):
        catalog.apply_deployment("iris", "c", expected_generation=1)
    catalog.delete_deployment("iris")
    with pytest.raises(Conflict, match="'iris' does not exist"):
        catalog.apply_deployment("iris", "c", expected_generation=2)
