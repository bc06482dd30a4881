"""What one process knows of the mesh: a value that each event of the registry turns into the next one.

Pure: it knows no stream, no clock of its own and no file. A replica is *in doubt* when a registry that forgot its past
has not heard of it (yet); it stays a candidate until it is announced again, or until its time is up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from mesh.v1.registry_pb2 import Deployment, MeshSnapshot, Replica, ServiceKind, WatchResponse

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class MeshView:
    """deployments by name; replicas by id; in_doubt: ids of the replicas that may be gone.

    The messages inside are shared between views: never change one.
    """

    deployments: Mapping[str, Deployment] = field(default_factory=lambda: MappingProxyType({}))
    replicas: Mapping[str, Replica] = field(default_factory=lambda: MappingProxyType({}))
    in_doubt: frozenset[str] = frozenset()

    def replicas_of(self, kind: ServiceKind.ValueType) -> Iterator[Replica]:
        """Replicas of one service, in no particular order."""
        return (replica for replica in self.replicas.values() if replica.kind == kind)

    def with_event(self, event: WatchResponse) -> MeshView:
        """The view after one change. A snapshot is not a change: see `with_snapshot`."""
        match event.WhichOneof("event"):
            case "deployment_applied":
                deployment = event.deployment_applied
                return replace(self, deployments={**self.deployments, deployment.name: deployment})
            case "deployment_deleted":
                return replace(self, deployments=_without(self.deployments, {event.deployment_deleted}))
            case "replica_announced":
                return self._with_replica(event.replica_announced)
            case "replica_left":
                return self.without_replicas({event.replica_left})
            case _:
                return self

    def with_snapshot(self, snapshot: MeshSnapshot, doubted: Set[str] = frozenset()) -> MeshView:
        """The view that `snapshot` describes, and those replicas of `doubted` that are known here and absent there.

        They are in doubt then; except those whose address another replica has now, which are gone.
        """
        announced = {replica.id: replica for replica in snapshot.replicas}
        taken = {replica.address for replica in snapshot.replicas}
        kept = {
            id_: replica
            for id_, replica in self.replicas.items()
            if id_ in doubted and id_ not in announced and replica.address not in taken
        }
        return MeshView(
            deployments={deployment.name: deployment for deployment in snapshot.deployments},
            replicas={**announced, **kept},
            in_doubt=frozenset(kept),
        )

    def without_replicas(self, ids: Set[str]) -> MeshView:
        """The view without these replicas."""
        return replace(self, replicas=_without(self.replicas, ids), in_doubt=self.in_doubt - ids)

    def snapshot(self) -> MeshSnapshot:
        """The view as a message; those in doubt are in it."""
        return MeshSnapshot(deployments=self.deployments.values(), replicas=self.replicas.values())

    def _with_replica(self, announced: Replica) -> MeshView:
        # One address is one process: whoever had it before is gone, whether or not its lease has run out.
        replaced = {id_ for id_, replica in self.replicas.items() if replica.address == announced.address}
        replicas = {**_without(self.replicas, replaced), announced.id: announced}
        return replace(self, replicas=replicas, in_doubt=self.in_doubt - replaced - {announced.id})


def _without(mapping: Mapping[str, T], keys: Set[str]) -> Mapping[str, T]:
    return {key: value for key, value in mapping.items() if key not in keys}
