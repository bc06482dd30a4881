"""Deployments as a person writes them: a YAML file in, checked `Deployment` messages out.

The fields of the file are the fields of the proto message, read from its descriptor, so the two cannot drift apart.
`check_deployment` is the one set of rules; the registry applies it to deployments that come over the wire as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any  # YAML is whatever the file holds, until it is checked here

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from mesh.errors import InvalidInput
from mesh.names import check_name, check_sha256, check_text, check_uri, shown
from mesh.traffic_spec import check_traffic
from mesh.v1.registry_pb2 import Deployment, PredictorSpec

DEFAULT_MODEL_VERSION = "1"
LANGUAGE_MODEL_FORMAT = "llm"

_MAX_ENTRIES = 64
_MAX_VALUE_CHARS = 1024
_SET_BY_REGISTRY = frozenset({"generation"})


def read_deployments(path: Path) -> list[Deployment]:
    """The deployments of a YAML file `{deployments: [{name: …, predictor: …}, …]}`, in the file's order.

    Raises InvalidInput with a sentence that names file, deployment and field.
    """
    return parse_deployments(read_yaml(path), str(path))


def parse_deployments(document: Mapping[str, Any], source: str) -> list[Deployment]:
    """The deployments under the key `deployments` of a parsed file; `source` names the file in errors."""
    entries = document.get("deployments")
    if not isinstance(entries, list):
        raise InvalidInput(f"{source}: deployments must be a list", field="deployments")
    deployments = [_parse_entry(entry, index, source) for index, entry in enumerate(entries)]
    names = [deployment.name for deployment in deployments]
    for name in names:
        if names.count(name) > 1:
            raise InvalidInput(f"{source}: deployment {shown(name)} is there twice", field="name")
    return deployments


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises InvalidInput when it cannot be read or is no mapping."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    return parse_yaml(content, str(path))


def parse_yaml(content: bytes, source: str) -> dict[str, Any]:
    """As `read_yaml`, of the file's content; `source` names the file in errors."""
    try:
        document = yaml.safe_load(content.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(f"{source}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise InvalidInput(f"{source}: must be a mapping, is {_kind(document)}")
    return document


def check_deployment(deployment: Deployment) -> Deployment:
    """A copy of `deployment` with defaults filled in; raises InvalidInput naming the field that is wrong."""
    check_name(deployment.name, "name")
    if not deployment.HasField("predictor"):
        raise InvalidInput("predictor is not set", field="predictor")
    checked = Deployment()
    checked.CopyFrom(deployment)
    predictor = checked.predictor
    predictor.model_version = predictor.model_version or DEFAULT_MODEL_VERSION
    check_name(predictor.model_format, "predictor.model_format")
    check_uri(predictor.storage_uri, "predictor.storage_uri")
    check_sha256(predictor.sha256, "predictor.sha256")
    check_name(predictor.model_version, "predictor.model_version")
    check_labels(predictor.options, "predictor.options")
    _check_versions(predictor)
    check_labels(checked.labels, "labels")
    if len(checked.transformer.steps) > _MAX_ENTRIES:
        raise InvalidInput(
            f"transformer.steps has {len(checked.transformer.steps)} steps; the limit is {_MAX_ENTRIES}",
            field="transformer.steps",
        )
    for index, step in enumerate(checked.transformer.steps):
        check_name(step, f"transformer.steps[{index}]")
    if checked.explainer.method:
        check_name(checked.explainer.method, "explainer.method")
    check_traffic(checked.traffic, checked.name, versions_of(checked))
    return checked


def versions_of(deployment: Deployment) -> list[str]:
    """All versions of a deployment's model; first the one that requests without a version get."""
    predictor = deployment.predictor
    deployed = predictor.model_version or DEFAULT_MODEL_VERSION
    return [deployed, *(version.model_version for version in predictor.versions)]


def is_language_model(deployment: Deployment) -> bool:
    """True for deployments that serve LanguageModel."""
    return deployment.predictor.model_format == LANGUAGE_MODEL_FORMAT


def check_labels(labels: Mapping[str, str], field: str) -> None:
    """Raise InvalidInput unless `labels` is at most 64 names with values of at most 1024 characters."""
    if len(labels) > _MAX_ENTRIES:
        raise InvalidInput(f"{field} has {len(labels)} entries; the limit is {_MAX_ENTRIES}", field=field)
    for key, value in labels.items():
        check_name(key, f"{field} key")
        check_text(value, f"{field}.{key}", _MAX_VALUE_CHARS)


def _check_versions(predictor: PredictorSpec) -> None:
    """Check the further versions, and fill in what they take from the deployed one."""
    if len(predictor.versions) > _MAX_ENTRIES:
        raise InvalidInput(
            f"predictor.versions has {len(predictor.versions)} entries; the limit is {_MAX_ENTRIES}",
            field="predictor.versions",
        )
    known = {predictor.model_version}
    for index, version in enumerate(predictor.versions):
        where = f"predictor.versions[{index}]"
        check_name(version.model_version, f"{where}.model_version")
        if version.model_version in known:
            raise InvalidInput(
                f"{where}.model_version {shown(version.model_version)} is there twice; the deployed version is "
                f"{shown(predictor.model_version)}",
                field=f"{where}.model_version",
            )
        known.add(version.model_version)
        if not version.storage_uri:
            version.storage_uri = predictor.storage_uri
            version.sha256 = version.sha256 or predictor.sha256
        version.model_format = version.model_format or predictor.model_format
        if not version.options and version.model_format == predictor.model_format:
            version.options.update(predictor.options)
        check_name(version.model_format, f"{where}.model_format")
        check_uri(version.storage_uri, f"{where}.storage_uri")
        check_sha256(version.sha256, f"{where}.sha256")
        check_labels(version.options, f"{where}.options")


def _parse_entry(entry: object, index: int, source: str) -> Deployment:
    name = entry.get("name") if isinstance(entry, dict) else None
    where = f"{source}: deployment {shown(name) if isinstance(name, str) else f'number {index + 1}'}"
    deployment = Deployment()
    try:
        _fill(deployment, entry, "")
        return check_deployment(deployment)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error.message}", field=error.field) from error


def _fill(message: Message, data: object, path: str) -> None:
    """Set the fields of `message` from the mapping `data`; `path` is the dotted way to it, for errors."""
    if not isinstance(data, dict):
        raise InvalidInput(f"{path or 'the entry'} must be a mapping, is {_kind(data)}", field=path or None)
    fields = [name for name in message.DESCRIPTOR.fields_by_name if name not in _SET_BY_REGISTRY]
    for key, value in data.items():
        dotted = f"{path}.{key}" if path else str(key)
        if key not in fields:
            raise InvalidInput(f"{dotted} is not a field; the fields are {', '.join(fields)}", field=dotted)
        _set(message, key, value, dotted)


def _set(message: Message, name: str, value: object, path: str) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    target = getattr(message, name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        if not isinstance(value, dict):
            raise InvalidInput(f"{path} must be a mapping, is {_kind(value)}", field=path)
        target.update({str(key): _text(item, f"{path}.{key}") for key, item in value.items()})
    elif field.is_repeated:
        if not isinstance(value, list):
            raise InvalidInput(f"{path} must be a list, is {_kind(value)}", field=path)
        if field.message_type is not None:
            for index, item in enumerate(value):
                _fill(target.add(), item, f"{path}[{index}]")
            return
        target.extend(_text(item, f"{path}[{index}]") for index, item in enumerate(value))
    elif field.message_type is not None:
        target.SetInParent()  # `transformer: {}` means: with a transformer, all defaults
        _fill(target, {} if value is None else value, path)
    elif field.type == FieldDescriptor.TYPE_INT32:
        setattr(message, name, _whole_number(value, path))
    else:
        setattr(message, name, _text(value, path))


def _whole_number(value: object, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
        raise InvalidInput(f"{path} must be a whole number of 32 bits", field=path)
    return value


def _text(value: object, path: str) -> str:
    """Scalars as text: `model_version: 1` and `options: {warm: true}` are what people write."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidInput(f"{path} must be text, is {_kind(value)}", field=path)


def _kind(value: object) -> str:
    return {dict: "a mapping", list: "a list", type(None): "empty", str: "text"}.get(type(value), "a number")
