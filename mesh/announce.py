"""Makes this replica known to the registry under a lease, for as long as it runs.

One task announces, renews, and announces again when the registry has forgotten (NOT_FOUND) or when the models change.
An absent registry is not an error: the task goes on trying, and says so once per change of state. It does not know who
listens; whether a silent replica is still a candidate is the watchers' affair (mesh/discovery.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import grpc
import grpc.aio

from mesh.channel import open_channel
from mesh.logs import get_logger
from mesh.retry import Backoff
from mesh.v1.registry_pb2 import (
    AnnounceReplicaRequest,
    RenewLeaseRequest,
    Replica,
    ServedModel,
    WithdrawReplicaRequest,
)
from mesh.v1.registry_pb2_grpc import RegistryServiceStub

log = get_logger(__name__)

DEFAULT_LEASE_S = 10.0

# A registry that comes back knows nobody: it hears from every replica within this time, whatever the lease.
_LONGEST_RENEWAL_S = 2.0
_CALL_TIMEOUT_S = 2.0


class Announcer:
    """Owns the lease of one replica. Use from one event loop only."""

    def __init__(
        self,
        registry_address: str,
        replica: Replica,
        lease_s: float = DEFAULT_LEASE_S,
        open_channel: Callable[[str], grpc.aio.Channel] = open_channel,
    ) -> None:
        """registry_address: "host:port". replica: with an id that no other start of any process has."""
        self._registry_address = registry_address
        self._replica = Replica()
        self._replica.CopyFrom(replica)
        self._lease_s = lease_s
        self._open_channel = open_channel
        self._channel: grpc.aio.Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._is_known: bool | None = None

    async def start(self) -> None:
        """Begin to announce, and return at once: the registry may be absent."""
        self._channel = self._open_channel(self._registry_address)
        self._changed.set()
        self._task = asyncio.create_task(self._keep_lease(self._channel))

    async def set_models(self, models: Sequence[ServedModel]) -> None:
        """Announce these models instead of the ones before, as soon as the registry can be reached."""
        del self._replica.models[:]
        self._replica.models.extend(models)
        self._changed.set()

    async def withdraw(self) -> None:
        """Give the lease back and stop: watchers take the replica out at once. Safe to call twice."""
        task, channel, self._task, self._channel = self._task, self._channel, None, None
        if task is None or channel is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        try:
            request = WithdrawReplicaRequest(replica_id=self._replica.id)
            await RegistryServiceStub(channel).WithdrawReplica(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            log.warning("withdrawal_failed", registry=self._registry_address, reason=_reason(error))
        await channel.close()

    async def _keep_lease(self, channel: grpc.aio.Channel) -> None:
        backoff = Backoff(first_s=0.1, limit_s=1.0)
        while True:
            try:
                lease_s = await self._announce_or_renew(channel)
            except grpc.aio.AioRpcError as error:
                self._note_unknown(error)
                # Not cut short by a change of models: while the registry is away, every change is pending.
                await asyncio.sleep(backoff.next_s())
            else:
                self._note_known()
                backoff.reset()
                await self._wait_for_change(min(lease_s / 3, _LONGEST_RENEWAL_S))

    async def _announce_or_renew(self, channel: grpc.aio.Channel) -> float:
        """One round; returns the seconds that the lease lasts."""
        stub = RegistryServiceStub(channel)
        if not self._changed.is_set():
            try:
                renewal = await stub.RenewLease(RenewLeaseRequest(replica_id=self._replica.id), timeout=_CALL_TIMEOUT_S)
                return renewal.lease_s
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
        # Cleared before the call: a change during it is announced in the next round.
        self._changed.clear()
        request = AnnounceReplicaRequest(replica=self._replica, lease_s=self._lease_s)
        try:
            announced = await stub.AnnounceReplica(request, timeout=_CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            self._changed.set()
            raise
        return announced.lease_s

    async def _wait_for_change(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._changed.wait(), timeout_s)
        except TimeoutError:
            return

    def _note_known(self) -> None:
        if self._is_known is not True:
            self._is_known = True
            log.info("announced", registry=self._registry_address, replica=self._replica.id)

    def _note_unknown(self, error: grpc.aio.AioRpcError) -> None:
        if self._is_known is not False:
            self._is_known = False
            log.warning("not_announced", registry=self._registry_address, reason=_reason(error))


def _reason(error: grpc.aio.AioRpcError) -> str:
    return error.details() or error.code().name
