"""A mesh described by a file, where there is no registry: which service listens where, and what is deployed.

    endpoints:
      predictor: [127.0.0.1:8092, {address: 127.0.0.1:8192, models: [iris]}]
      transformer: [127.0.0.1:8091]
    deployments: [...]        # as in mesh/deployments.py

A predictor without `models` is taken to serve every deployment of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mesh.deployments import parse_deployments, parse_yaml, versions_of
from mesh.errors import InvalidInput
from mesh.names import check_address, shown
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_PREDICTOR,
    SERVICE_KIND_TRANSFORMER,
    Deployment,
    Replica,
    ServedModel,
    ServiceKind,
)
from mesh.view import MeshView

_KINDS: dict[str, ServiceKind.ValueType] = {
    "transformer": SERVICE_KIND_TRANSFORMER,
    "predictor": SERVICE_KIND_PREDICTOR,
    "explainer": SERVICE_KIND_EXPLAINER,
}


def parse_endpoints(content: bytes, source: str) -> MeshView:
    """The mesh that the file's content describes; `source` names the file in errors.

    Raises InvalidInput with a sentence that names file and field.
    """
    document = parse_yaml(content, source)
    deployments = {deployment.name: deployment for deployment in parse_deployments(document, source)}
    listed = document.get("endpoints")
    if not isinstance(listed, dict):
        raise InvalidInput(f"{source}: endpoints must be a mapping of service to addresses", field="endpoints")
    replicas = list(_replicas(listed, deployments, source))
    return MeshView(deployments=deployments, replicas={replica.id: replica for replica in replicas})


def _replicas(listed: Mapping[object, object], deployments: Mapping[str, Deployment], source: str) -> Iterator[Replica]:
    for service, entries in listed.items():
        kind = _KINDS.get(str(service))
        field = f"endpoints.{service}"
        if kind is None:
            raise InvalidInput(f"{source}: {field} is not a service; the services are {', '.join(_KINDS)}", field=field)
        if not isinstance(entries, list):
            raise InvalidInput(f"{source}: {field} must be a list of host:port", field=field)
        for index, entry in enumerate(entries):
            yield _replica(kind, entry, deployments, source, f"{field}[{index}]")


def _replica(
    kind: ServiceKind.ValueType, entry: object, deployments: Mapping[str, Deployment], source: str, field: str
) -> Replica:
    described = entry if isinstance(entry, dict) else {"address": entry}
    address = described.get("address")
    names = described.get("models", list(deployments))
    if not isinstance(address, str) or not isinstance(names, list) or set(described) - {"address", "models"}:
        raise InvalidInput(
            f"{source}: {field} must be host:port or {{address: host:port, models: [name]}}", field=field
        )
    try:
        check_address(address, field)
    except InvalidInput as error:
        raise InvalidInput(f"{source}: {error.message}", field=field) from error
    unknown = [name for name in names if name not in deployments]
    if unknown:
        raise InvalidInput(
            f"{source}: {field}.models has {shown(str(unknown[0]))}, which is no deployment", field=field
        )
    served = names if kind == SERVICE_KIND_PREDICTOR else []
    models = [model for name in served for model in _served(deployments[name])]
    return Replica(id=f"{ServiceKind.Name(kind)}@{address}", kind=kind, address=address, models=models)


def _served(deployment: Deployment) -> list[ServedModel]:
    return [ServedModel(name=deployment.name, version=version, ready=True) for version in versions_of(deployment)]
