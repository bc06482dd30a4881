"""One channel per replica that the view names, kept in step with the view, and found by what the replica serves.

It does not choose and does not call: that is the pool's. A replica that comes back is a new endpoint with a channel of
its own, so nothing of the old one's failures sticks to it; the channel of one that left lives until its last call ends.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc.aio

from mesh.balancing.ejection import Outlier
from mesh.load_report import LoadReport
from mesh.logs import get_logger
from mesh.multiplex.channel import MultiplexedChannel
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica, ServiceKind
from mesh.view import MeshView

log = get_logger(__name__)

Kind: TypeAlias = "ServiceKind.ValueType"

# A report is believed for FRESH_S, then less and less until STALE_S: who is thought busy gets no calls, so no news.
FRESH_S = 2.0
STALE_S = 10.0
_DOUBT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """What a call is for: a service, and for predictors a model. An empty version means any."""

    kind: Kind
    deployment: str
    version: str = ""


@dataclass(slots=True, eq=False)
class Endpoint:
    """One replica as this process sees it.

    in_flight: calls dispatched to it that have not ended. dispatched_work: what they cost together. report: what it
    last said of its load. others_work: what of that is not this process's, as far as it is still believed. has_left:
    the view lost it. departing: set while its streams had better go elsewhere, as it has left, or says that it drains.
    """

    replica: Replica
    channel: grpc.aio.Channel
    in_flight: int = 0
    dispatched_work: float = 0.0
    report: LoadReport | None = None
    others_work: float = 0.0
    outlier: Outlier = field(default_factory=Outlier)
    has_left: bool = False
    departing: asyncio.Event = field(default_factory=asyncio.Event)
    _others_work_then: float = 0.0
    _reported_at: float = 0.0

    @property
    def id(self) -> str:
        return self.replica.id

    @property
    def load(self) -> float:
        """What this process dispatched, and what others have there, as far as it is known.

        Never less than what this process dispatched: a replica cannot draw calls by reporting less than it has.
        """
        return self.dispatched_work + self.others_work

    def reported(self, report: LoadReport, now: float) -> None:
        """Take in what the replica says of its load."""
        self.report = report
        self.others_work = self._others_work_then = max(0.0, report.work - self.dispatched_work)
        self._reported_at = now

    def doubt(self, now: float) -> None:
        """Believe the last report less, the older it is: after STALE_S without news there is nothing left of it."""
        if self.others_work:
            age_s = now - self._reported_at
            belief = min(1.0, max(0.0, (STALE_S - age_s) / (STALE_S - FRESH_S)))
            self.others_work = self._others_work_then * belief


class EndpointSet:
    """The endpoints of the newest view. Owns their channels.

    full: those that have `max_in_flight` calls. draining: those that say that they are about to end. on_freed: called
    with an endpoint at which a call has ended. on_left: called when replicas have left, with the ids of those that are
    there.
    """

    def __init__(
        self,
        view: Callable[[], MeshView],
        open_channel: Callable[[str], grpc.aio.Channel],
        now: Callable[[], float] = time.monotonic,
        max_in_flight: int = sys.maxsize,
    ) -> None:
        self.full: set[Endpoint] = set()
        self.draining: set[Endpoint] = set()
        self.on_freed: Callable[[Endpoint], None] = lambda _endpoint: None
        self.on_left: Callable[[Set[str]], None] = lambda _ids: None
        self._view = view
        self._open_channel = open_channel
        self._now = now
        self._doubts_at = 0.0
        self._max_in_flight = max_in_flight
        self._seen: MeshView | None = None
        self._present: dict[tuple[str, str], Endpoint] = {}  # by replica id and address
        self._leaving: set[Endpoint] = set()
        self._suspects: set[Endpoint] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._serving: dict[Target, Sequence[Endpoint]] = {}

    def serving(self, target: Target) -> Sequence[Endpoint]:
        """The endpoints that can take a request of the target; O(1) while the view stays the same."""
        self.follow_view()
        now = self._now()
        if now >= self._doubts_at:
            self._doubts_at = now + _DOUBT_EVERY_S
            for endpoint in self._present.values():
                endpoint.doubt(now)
        found = self._serving.get(target)
        if found is None:
            found = [endpoint for endpoint in self._present.values() if serves(endpoint.replica, target)]
            if found:  # a name that nobody serves may be a stranger's: never kept
                self._serving[target] = found
        return found

    def responsive(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Those of `endpoints` that owe this process no sign of life; all of them when all do."""
        if not self._suspects:
            return endpoints
        return [endpoint for endpoint in endpoints if endpoint not in self._suspects] or endpoints

    def of_kind(self, kind: Kind) -> list[Replica]:
        """All replicas of one service, ready or not."""
        self.follow_view()
        return [endpoint.replica for endpoint in self._present.values() if endpoint.replica.kind == kind]

    def is_without_fallback(self, name: str) -> bool:
        """True for a deployment that the mesh knows, and that no other stands in for."""
        deployment = self._view().deployments.get(name)
        return deployment is not None and not deployment.traffic.fallback

    @contextmanager
    def dispatched(self, endpoint: Endpoint, cost: float) -> Iterator[None]:
        """Count a call as in flight while the block runs."""
        self.reserve(endpoint, cost)
        try:
            yield
        finally:
            self.release(endpoint, cost)

    def reserve(self, endpoint: Endpoint, cost: float) -> None:
        """Count a call as in flight, until `release` or `unreserve`."""
        endpoint.in_flight += 1
        endpoint.dispatched_work += cost
        if endpoint.in_flight >= self._max_in_flight:
            self.full.add(endpoint)

    def release(self, endpoint: Endpoint, cost: float) -> None:
        """The call has ended."""
        self.unreserve(endpoint, cost)
        if endpoint.has_left and endpoint.in_flight == 0:
            self._leaving.discard(endpoint)
            self._close_soon(endpoint)
        self.on_freed(endpoint)

    def unreserve(self, endpoint: Endpoint, cost: float) -> None:
        """Take back what `reserve` counted; the place goes to another call at once."""
        endpoint.in_flight -= 1
        # Sums of floats drift: nothing in flight is no work.
        endpoint.dispatched_work = endpoint.dispatched_work - cost if endpoint.in_flight else 0.0
        if endpoint.in_flight < self._max_in_flight:
            self.full.discard(endpoint)

    async def close(self) -> None:
        """Close all channels; calls still running end as cancelled."""
        endpoints = {*self._present.values(), *self._leaving}
        self._present, self._leaving, self._serving = {}, set(), {}
        await asyncio.gather(*(endpoint.channel.close() for endpoint in endpoints), *self._closing)

    def follow_view(self) -> None:
        """Take in the newest view now, and not with the next call: streams learn that their replica left."""
        view = self._view()
        if view is self._seen:
            return
        self._seen = view
        self._serving = {}
        before, self._present = self._present, {}
        for replica in view.replicas.values():
            key = (replica.id, replica.address)
            endpoint = before.pop(key, None) or self._open(replica)
            endpoint.replica = replica
            self._present[key] = endpoint
        for endpoint in before.values():
            endpoint.has_left = True
            endpoint.departing.set()
            if endpoint.in_flight:
                self._leaving.add(endpoint)
            else:
                self._close_soon(endpoint)
        if before:
            self.on_left(view.replicas.keys())

    def _open(self, replica: Replica) -> Endpoint:
        channel = self._open_channel(replica.address)
        endpoint = Endpoint(replica, channel)
        if isinstance(channel, MultiplexedChannel):

            def on_suspect(is_suspect: bool) -> None:
                (self._suspects.add if is_suspect else self._suspects.discard)(endpoint)
                event = "replica_silent" if is_suspect else "replica_heard"
                log.warning(event, replica=replica.id, address=replica.address)

            channel.peer.on_suspect = on_suspect
            channel.peer.on_drain = lambda is_draining: self._note_draining(endpoint, is_draining)
            channel.peer.on_load = lambda report: endpoint.reported(report, self._now())
        return endpoint

    def _note_draining(self, endpoint: Endpoint, is_draining: bool) -> None:
        replica = endpoint.replica
        log.info("replica_drains" if is_draining else "replica_drained", replica=replica.id, address=replica.address)
        if is_draining:
            self.draining.add(endpoint)
            endpoint.departing.set()
        else:
            self.draining.discard(endpoint)
            if not endpoint.has_left:
                endpoint.departing.clear()

    def _close_soon(self, endpoint: Endpoint) -> None:
        task = asyncio.get_running_loop().create_task(endpoint.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def serves(replica: Replica, target: Target) -> bool:
    """True when the replica is of the target's service and, for a predictor, has its model ready."""
    if replica.kind != target.kind:
        return False
    return target.kind != SERVICE_KIND_PREDICTOR or any(
        model.ready and model.name == target.deployment and target.version in ("", model.version)
        for model in replica.models
    )
