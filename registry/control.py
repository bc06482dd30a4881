"""The one place where the mesh changes: what is stored or leased here is told to all watchers, once and in order.

Deployments are durable and go through the catalog; replicas are leased and live in memory. The catalog blocks, so it is
called in worker threads; the watch log and the leases belong to the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable

from google.protobuf import json_format

from mesh.deployments import check_deployment
from mesh.errors import InvalidInput
from mesh.logs import get_logger
from mesh.v1.registry_pb2 import Deployment, Replica, WatchResponse
from mesh.view import MeshView
from registry.catalog import Catalog, DeploymentRecord
from registry.leases import TICK_S, Leases
from registry.watch import WatchLog

log = get_logger(__name__)


class ControlPlane:
    """Use from one event loop only; between start() and close()."""

    def __init__(self, catalog: Catalog, watch_log: WatchLog, leases: Leases) -> None:
        self._catalog = catalog
        self._watch_log = watch_log
        self._leases = leases
        self._order = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._expiring: asyncio.Task[None] | None = None

    @property
    def view(self) -> MeshView:
        """The mesh as watchers see it."""
        return self._watch_log.view

    async def start(self, seed: Iterable[Deployment] = ()) -> None:
        """Apply the deployments of `seed` that a start did not apply before, and begin to watch over the leases.

        What a file said already may have been changed since, by a promotion for example, and a restart undoes nothing.
        """
        self._loop = asyncio.get_running_loop()
        for deployment in seed:
            await asyncio.to_thread(self._apply_seed, check_deployment(deployment))
        self._expiring = asyncio.create_task(self._keep_expiring())

    async def end_watches(self) -> None:
        """End all Watch streams: their clients look for the next registry."""
        self._watch_log.close()

    async def close(self) -> None:
        """Stop; leases stay as they are."""
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)

    async def apply_deployment(self, deployment: Deployment, expected_generation: int = 0) -> Deployment:
        """Create or change a deployment; the same again changes nothing.

        Raises InvalidInput, Unavailable, and Conflict unless `expected_generation` is 0 or that of the deployment as it
        is.
        """
        return await asyncio.to_thread(self._apply, check_deployment(deployment), expected_generation)

    async def delete_deployment(self, name: str) -> None:
        """Raises ModelNotFound when there is no such deployment."""
        await asyncio.to_thread(self._delete, name)

    def announce(self, replica: Replica, lease_s: float) -> float:
        """Seconds that the replica's lease lasts. Raises InvalidInput and Overloaded."""
        announced = self._leases.announce(replica, lease_s)
        for replica_id in announced.replaced:
            log.info("replica_replaced", replica=replica_id, by=replica.id, address=replica.address)
            self._watch_log.publish(WatchResponse(replica_left=replica_id))
        if announced.is_change:
            log.info("replica_announced", replica=replica.id, kind=replica.kind, address=replica.address)
            self._watch_log.publish(WatchResponse(replica_announced=replica))
        return announced.lease_s

    def renew(self, replica_id: str) -> float:
        """Seconds that the lease lasts from now. Raises NotFound: announce again."""
        return self._leases.renew(replica_id)

    def withdraw(self, replica_id: str) -> None:
        """Take the replica out at once; not an error when it is unknown.

        Told to watchers in any case: they may still know it from before this registry's start.
        """
        if not replica_id:
            raise InvalidInput("replica_id is empty", field="replica_id")
        if self._leases.withdraw(replica_id):
            log.info("replica_withdrawn", replica=replica_id)
        self._watch_log.publish(WatchResponse(replica_left=replica_id))

    def watch(self, after_revision: int, epoch: str) -> AsyncGenerator[WatchResponse, None]:
        """Everything after `after_revision` of `epoch`, without end. Raises Overloaded and Unavailable."""
        return self._watch_log.subscribe(after_revision, epoch)

    def _apply(self, deployment: Deployment, expected_generation: int) -> Deployment:
        # The lock spans commit and hand-over, so that events have the order of the commits; and both happen in this
        # thread, so that a caller who goes away between them cannot lose the event.
        with self._order:
            record, is_change = self._catalog.apply_deployment(
                deployment.name, spec_of(deployment), expected_generation
            )
            stored = deployment_of(record)
            if is_change:
                self._publish_soon(WatchResponse(deployment_applied=stored))
        return stored

    def _apply_seed(self, deployment: Deployment) -> None:
        spec = spec_of(deployment)
        if self._catalog.is_new_seed(deployment.name, spec):
            self._apply(deployment, 0)
            self._catalog.keep_seed(deployment.name, spec)

    def _delete(self, name: str) -> None:
        with self._order:
            self._catalog.delete_deployment(name)
            self._publish_soon(WatchResponse(deployment_deleted=name))

    def _publish_soon(self, event: WatchResponse) -> None:
        if self._loop is None:
            raise RuntimeError("the control plane is not started")
        self._loop.call_soon_threadsafe(self._watch_log.publish, event)

    async def _keep_expiring(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            for replica_id in self._leases.expire():
                log.warning("lease_expired", replica=replica_id)
                self._watch_log.publish(WatchResponse(replica_left=replica_id))


def spec_of(deployment: Deployment) -> str:
    """The deployment as text without its generation; the same content is the same text."""
    bare = Deployment()
    bare.CopyFrom(deployment)
    bare.ClearField("generation")
    return json_format.MessageToJson(bare, indent=None, sort_keys=True)


def deployment_of(record: DeploymentRecord) -> Deployment:
    """The deployment that a record keeps."""
    # A newer registry may have written fields that this one does not know.
    deployment = json_format.Parse(record.spec, Deployment(), ignore_unknown_fields=True)
    deployment.generation = record.generation
    return deployment
