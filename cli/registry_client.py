"""The registry over gRPC, as the commands need it: what there is now, and one deployment changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cli.failure import Failure
from cli.target import Target

if TYPE_CHECKING:
    from mesh.v1.registry_pb2 import Deployment, MeshSnapshot
    from mesh.v1.registry_pb2_grpc import RegistryServiceStub

DEFAULT_ADDRESS = "127.0.0.1:8090"


def registry_address(given: str | None, target: Target) -> str:
    """host:port of the registry: the one that is given, else the local mesh's, else the usual one. Raises Failure."""
    if given is None:
        known = (service.grpc_address for service in target.services if service.name == "registry")
        return next(known, DEFAULT_ADDRESS)
    host, separator, port = given.rpartition(":")
    if not (host and separator and port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise Failure(f"--registry '{given}' is no address", f"write it like {DEFAULT_ADDRESS}")
    return given


class RegistryClient:
    """Each call opens a channel of its own. Raises Failure."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s

    def snapshot(self) -> MeshSnapshot:
        """All deployments, and all replicas whose lease is alive."""
        from mesh.v1.registry_pb2 import WatchRequest

        with self._stub() as stub:
            watch = stub.Watch(WatchRequest(), timeout=self._timeout_s)
            first = next(iter(watch))  # to a caller that knows nothing: everything
            watch.cancel()
            return first.snapshot

    def apply(self, changed: Deployment) -> Deployment:
        """Put `changed`, which was made of one in a snapshot, in its place, unless somebody else was first."""
        from mesh.v1.registry_pb2 import ApplyDeploymentRequest

        request = ApplyDeploymentRequest(deployment=changed, expected_generation=changed.generation)
        with self._stub() as stub:
            return stub.ApplyDeployment(request, timeout=self._timeout_s).deployment

    @contextmanager
    def _stub(self) -> Iterator[RegistryServiceStub]:
        # Imported here: other verbs start faster without gRPC.
        import grpc

        from mesh.v1.registry_pb2_grpc import RegistryServiceStub

        with grpc.insecure_channel(self._address, options=[("grpc.enable_http_proxy", 0)]) as channel:
            try:
                yield RegistryServiceStub(channel)
            except grpc.RpcError as error:
                # Every error of a channel is also a Call, which the type does not say.
                raise self._explained(error.code(), error.details() or "") from None

    def _explained(self, code: object, details: str) -> Failure:
        import grpc

        if code is grpc.StatusCode.ABORTED:
            return Failure("somebody else changed the deployment at the same time", "look at it, and try again")
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Failure(f"no answer within {self._timeout_s:g} s", "allow more with --timeout")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return Failure(f"what answers at {self._address} is no registry", "name one with --registry")
        if code is grpc.StatusCode.UNAVAILABLE and "onnect" in details:
            return Failure(
                f"no registry answers at {self._address}",
                "start a mesh with `meshserve up`, or name another registry with --registry HOST:PORT",
            )
        return Failure(details or str(code))


def deployment_in(snapshot: MeshSnapshot, name: str) -> Deployment:
    """The deployment of that name. Raises Failure that lists what there is."""
    for deployment in snapshot.deployments:
        if deployment.name == name:
            return deployment
    known = ", ".join(sorted(deployment.name for deployment in snapshot.deployments)) or "nothing"
    raise Failure(f"'{name}' is not deployed; deployed: {known}")
