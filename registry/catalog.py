"""Models, versions, aliases, prompts and deployments: the rules, apart from where it is all kept.

Versions are immutable and numbered from 1 by the registry; an alias points at one of them. A deployment's generation
counts its changes and goes on counting when it is deleted and made again, so that nobody takes the new for the old.
No I/O here: records are kept through the port `Store`, and what a deployment says is text to this module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from mesh.errors import Conflict, InvalidInput, ModelNotFound, NotFound
from mesh.names import check_name, check_sha256, check_text, check_uri, shown

MAX_TAGS = 100
MAX_TAG_CHARS = 5_000
MAX_TEMPLATE_CHARS = 1 << 20
MAX_COMMIT_MESSAGE_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One immutable version. version: from 1; 0 and created_at None: not stored yet."""

    model_name: str
    artifact_uri: str
    model_format: str
    sha256: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 0
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """versions: oldest first. aliases: alias → version."""

    name: str
    versions: Sequence[ModelVersion]
    aliases: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PromptVersion:
    """One immutable version of a template. version: from 1; 0 and created_at None: not stored yet."""

    prompt_name: str
    template: str
    commit_message: str = ""
    version: int = 0
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeploymentRecord:
    """spec: the deployment as given, as text that is the same for the same content."""

    name: str
    generation: int
    spec: str


class Store(Protocol):
    """Where records are kept. Each method is one transaction; what it returned survives the process.

    Methods block, may be called from several threads, and raise Unavailable or DiskFull.
    """

    def add_model_version(self, version: ModelVersion) -> ModelVersion:
        """Store it under the next number of its model."""

    def model_version(self, model_name: str, version: int) -> ModelVersion | None: ...

    def models(self) -> Sequence[Model]:
        """All models by name."""

    def last_model_version(self, model_name: str) -> int:
        """The highest number of the model's versions; 0 when there is no such model."""

    def set_alias(self, model_name: str, alias: str, version: int) -> None: ...

    def alias(self, model_name: str, alias: str) -> int | None: ...

    def add_prompt_version(self, version: PromptVersion) -> PromptVersion:
        """Store it under the next number of its prompt."""

    def prompt_version(self, prompt_name: str, version: int) -> PromptVersion | None: ...

    def last_prompt_version(self, prompt_name: str) -> int:
        """The highest number of the prompt's versions; 0 when there is no such prompt."""

    def put_deployment(self, name: str, spec: str, expected_generation: int = 0) -> tuple[DeploymentRecord, bool]:
        """Store `spec` under the next generation, and True; or leave a record that has this spec, and False.

        Raises Conflict unless `expected_generation` is 0 or that of the deployment as it is.
        """

    def delete_deployment(self, name: str) -> bool:
        """False when there is no such deployment."""

    def deployments(self) -> Sequence[DeploymentRecord]:
        """All deployments by name."""

    def seed(self, name: str) -> str | None:
        """What `put_seed` kept under this name last."""

    def put_seed(self, name: str, spec: str) -> None:
        """Keep what a file says of a deployment, apart from the deployment itself."""


class Catalog:
    """Checks what comes in, and says in one sentence what is wrong with it. Blocks where its store does."""

    def __init__(self, store: Store, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def create_model_version(self, draft: ModelVersion) -> ModelVersion:
        """Store `draft` as the next version of its model. Raises InvalidInput."""
        check_name(draft.model_name, "model_version.model_name")
        check_uri(draft.artifact_uri, "model_version.artifact_uri")
        check_name(draft.model_format, "model_version.model_format")
        check_sha256(draft.sha256, "model_version.sha256")
        _check_tags(draft.tags, "model_version.tags")
        return self._store.add_model_version(replace(draft, version=0, created_at=self._now()))

    def model_version(self, model_name: str, version: str) -> ModelVersion:
        """The version of this number. Raises ModelNotFound."""
        check_name(model_name, "model_name")
        number = _number(version)
        found = self._store.model_version(model_name, number) if number else None
        if found is None:
            raise self._no_version(model_name, version)
        return found

    def aliased_model_version(self, model_name: str, alias: str) -> ModelVersion:
        """The version that `alias` points at. Raises ModelNotFound."""
        check_name(model_name, "model_name")
        check_name(alias, "alias")
        number = self._store.alias(model_name, alias)
        if number is None:
            self._require_model(model_name)
            raise ModelNotFound(f"model '{model_name}' has no alias '{alias}'", field="alias")
        return self.model_version(model_name, str(number))

    def models(self) -> Sequence[Model]:
        """All models by name, with all their versions and aliases."""
        return self._store.models()

    def set_model_alias(self, model_name: str, alias: str, version: str) -> None:
        """Point `alias` at a version that exists. Raises InvalidInput and ModelNotFound."""
        check_name(alias, "alias")
        if alias.isdecimal() or alias == "latest":
            raise InvalidInput(f"alias '{alias}' would be taken for a version; use a word of your own", field="alias")
        # Versions are never removed, so what exists here still exists when the alias is written.
        self._store.set_alias(model_name, alias, self.model_version(model_name, version).version)

    def create_prompt_version(self, draft: PromptVersion) -> PromptVersion:
        """Store `draft` as the next version of its prompt. Raises InvalidInput."""
        check_name(draft.prompt_name, "prompt_version.prompt_name")
        if not draft.template.strip():
            raise InvalidInput("prompt_version.template is empty", field="prompt_version.template")
        check_text(draft.template, "prompt_version.template", MAX_TEMPLATE_CHARS)
        check_text(draft.commit_message, "prompt_version.commit_message", MAX_COMMIT_MESSAGE_CHARS)
        return self._store.add_prompt_version(replace(draft, version=0, created_at=self._now()))

    def prompt_version(self, prompt_name: str, version: str) -> PromptVersion:
        """The version of this number, or the newest when `version` is empty. Raises NotFound."""
        check_name(prompt_name, "prompt_name")
        last = self._store.last_prompt_version(prompt_name)
        if not last:
            raise NotFound(f"prompt '{prompt_name}' does not exist", field="prompt_name")
        number = _number(version) if version else last
        found = self._store.prompt_version(prompt_name, number) if number else None
        if found is None:
            raise NotFound(
                f"prompt '{prompt_name}' has no version {shown(version)}; it has 1 to {last}", field="version"
            )
        return found

    def apply_deployment(self, name: str, spec: str, expected_generation: int = 0) -> tuple[DeploymentRecord, bool]:
        """The deployment as stored, and whether it is other than before.

        Raises Conflict unless `expected_generation` is 0 or that of the deployment as it is.
        """
        return self._store.put_deployment(name, spec, expected_generation)

    def is_new_seed(self, name: str, spec: str) -> bool:
        """Whether the file says something else of a deployment than when `keep_seed` was called last."""
        return self._store.seed(name) != spec

    def keep_seed(self, name: str, spec: str) -> None:
        """Note that what the file says has been applied."""
        self._store.put_seed(name, spec)

    def delete_deployment(self, name: str) -> None:
        """Raises ModelNotFound when there is no such deployment."""
        check_name(name, "name")
        if not self._store.delete_deployment(name):
            raise ModelNotFound(f"deployment '{name}' does not exist", field="name")

    def deployments(self) -> Sequence[DeploymentRecord]:
        """All deployments by name."""
        return self._store.deployments()

    def _require_model(self, model_name: str) -> int:
        last = self._store.last_model_version(model_name)
        if not last:
            raise ModelNotFound(f"model '{model_name}' does not exist", field="model_name")
        return last

    def _no_version(self, model_name: str, version: str) -> ModelNotFound:
        last = self._require_model(model_name)
        return ModelNotFound(
            f"model '{model_name}' has no version {shown(version)}; it has 1 to {last}", field="version"
        )


def check_generation(name: str, generation: int, expected: int) -> None:
    """Raise Conflict unless `expected` is 0 or `generation`, that of the deployment now (0: there is none)."""
    if expected and expected != generation:
        now = f"is at generation {generation}" if generation else "does not exist"
        raise Conflict(
            f"deployment '{name}' {now}, and the change was made to generation {expected}; read it again",
            field="expected_generation",
        )


def _number(version: str) -> int:
    """The number that `version` writes, in its one canonical way; 0 for what is none."""
    canonical = version.isascii() and version.isdecimal() and len(version) <= 9 and not version.startswith("0")
    return int(version) if canonical else 0


def _check_tags(tags: Mapping[str, str], field_name: str) -> None:
    if len(tags) > MAX_TAGS:
        raise InvalidInput(f"{field_name} has {len(tags)} entries; the limit is {MAX_TAGS}", field=field_name)
    for key, value in tags.items():
        check_name(key, f"{field_name} key")
        check_text(value, f"{field_name}.{key}", MAX_TAG_CHARS)
