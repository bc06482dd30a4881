"""Which replicas are alive: each has a lease, which it must renew before it runs out.

Kept in memory only. A registry that starts anew knows no replica, answers NOT_FOUND to renewals, and so hears from all
of them at once; what watchers do in the meantime stands in mesh/discovery.py. Time during which this process itself
did not run (stopped, starved, a paused machine) is given back to all leases: nobody could have renewed then. Pure: the
clock is an argument, and nothing here waits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from mesh.errors import InvalidInput, NotFound, Overloaded
from mesh.names import check_address, check_name, shown
from mesh.v1.registry_pb2 import SERVICE_KIND_UNSPECIFIED, Replica, ServiceKind

DEFAULT_LEASE_S = 10.0
MIN_LEASE_S = 1.0
MAX_LEASE_S = 300.0
MAX_REPLICAS = 10_000
MAX_MODELS = 1_000
TICK_S = 0.25

_LATE_S = 1.0
_ID = re.compile(r"[A-Za-z0-9._:@-]{1,128}", re.ASCII)


@dataclass(slots=True)
class Lease:
    """expires_at: on the clock of its Leases."""

    replica: Replica
    lease_s: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class Announced:
    """is_change: the replica is new or says something new. replaced: ids of replicas whose address it has now."""

    lease_s: float
    is_change: bool
    replaced: tuple[str, ...]


class Leases:
    """The living replicas by id."""

    def __init__(
        self, now: Callable[[], float], default_lease_s: float = DEFAULT_LEASE_S, max_replicas: int = MAX_REPLICAS
    ) -> None:
        self._now = now
        self._default_lease_s = default_lease_s
        self._max_replicas = max_replicas
        self._leases: dict[str, Lease] = {}
        self._looked_at = now()

    def __len__(self) -> int:
        return len(self._leases)

    def announce(self, replica: Replica, lease_s: float) -> Announced:
        """Give `replica` a lease of `lease_s` seconds, 0 meaning the default. Raises InvalidInput and Overloaded."""
        check_replica(replica)
        lease_s = self._lease_s(lease_s)
        known = self._leases.get(replica.id)
        if known is None and len(self._leases) >= self._max_replicas:
            raise Overloaded(f"the registry knows {len(self._leases)} replicas, its limit", field="replica")
        replaced = tuple(
            lease.replica.id
            for lease in self._leases.values()
            if lease.replica.address == replica.address and lease.replica.id != replica.id
        )
        for replica_id in replaced:
            del self._leases[replica_id]
        self._leases[replica.id] = Lease(replica, lease_s, self._now() + lease_s)
        return Announced(lease_s, known is None or known.replica != replica, replaced)

    def renew(self, replica_id: str) -> float:
        """Seconds that the lease lasts from now. Raises NotFound: announce again."""
        lease = self._leases.get(replica_id)
        if lease is None:
            raise NotFound(f"replica {shown(replica_id)} has no lease; announce it again", field="replica_id")
        lease.expires_at = self._now() + lease.lease_s
        return lease.lease_s

    def withdraw(self, replica_id: str) -> bool:
        """End the lease now; False when there was none."""
        return self._leases.pop(replica_id, None) is not None

    def expire(self) -> list[str]:
        """End the leases whose time is up, and return their replicas' ids. To be called every TICK_S seconds."""
        now = self._now()
        late_s = now - self._looked_at - TICK_S
        self._looked_at = now
        if late_s > _LATE_S:
            for lease in self._leases.values():
                lease.expires_at += late_s
        expired = [replica_id for replica_id, lease in self._leases.items() if lease.expires_at <= now]
        for replica_id in expired:
            del self._leases[replica_id]
        return expired

    def _lease_s(self, asked_s: float) -> float:
        if asked_s == 0:
            return self._default_lease_s
        if math.isnan(asked_s) or not MIN_LEASE_S <= asked_s <= MAX_LEASE_S:
            raise InvalidInput(
                f"lease_s is {asked_s:g}; it must be {MIN_LEASE_S:g}..{MAX_LEASE_S:g}, or 0 for the default",
                field="lease_s",
            )
        return asked_s


def check_replica(replica: Replica) -> None:
    """Raise InvalidInput that names the field that is wrong."""
    if not _ID.fullmatch(replica.id):
        raise InvalidInput(
            f"replica.id {shown(replica.id)} must have 1..128 of A-Z, a-z, 0-9 and . _ : @ -", field="replica.id"
        )
    if replica.kind == SERVICE_KIND_UNSPECIFIED or replica.kind not in ServiceKind.values():
        raise InvalidInput(f"replica.kind is {replica.kind}; it must be one of ServiceKind", field="replica.kind")
    check_address(replica.address, "replica.address")
    if replica.metrics_address:
        check_address(replica.metrics_address, "replica.metrics_address")
    if len(replica.models) > MAX_MODELS:
        raise InvalidInput(
            f"replica.models has {len(replica.models)} entries; the limit is {MAX_MODELS}", field="replica.models"
        )
    for model in replica.models:
        check_name(model.name, "replica.models.name")
        check_name(model.version, "replica.models.version")
