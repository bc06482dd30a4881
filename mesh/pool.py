"""Sends calls to the replicas of the next hop: who can take it, who shall, and what happens when it fails.

Requests in flight are counted at dispatch, so that a burst spreads before the first of it is answered. A call that
fails before it gave anything back, because its replica could not be reached, goes to another replica, within a budget
that all calls of the pool share; a failing replica is kept out for growing times. The pool knows neither models nor
messages: a call is a function of a channel. While all replicas have as many calls as they may, or none is ready,
requests wait in a bounded queue that is fair between tenants.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

import grpc.aio
from prometheus_client import CollectorRegistry

from mesh.balancing import ANY, Request
from mesh.call_limits import CallLimits
from mesh.endpoints import EndpointSet, Kind, Target
from mesh.errors import ModelNotFound
from mesh.multiplex.channel import open_multiplexed
from mesh.pool_metrics import PoolMetrics
from mesh.replica_choice import ReplicaChoice
from mesh.resumable_stream import call_resumable
from mesh.retry import RetryBudget
from mesh.stream_call import call_stream
from mesh.unary_call import call_unary
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, SERVICE_KIND_TRANSFORMER, Deployment
from mesh.view import MeshView

T = TypeVar("T")
Channel = grpc.aio.Channel


class EndpointPool:
    """Calls to whatever replicas a view names. Use from one event loop only; the owner closes it."""

    def __init__(
        self,
        view: Callable[[], MeshView],
        *,
        policy: str = "prefix_affinity",
        metrics_registry: CollectorRegistry | None = None,
        budget: RetryBudget | None = None,
        open_channel: Callable[[str], Channel] = open_multiplexed,
        limits: CallLimits | None = None,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """view: what is known now, as in `lambda: discovery.view`. policy: a name of mesh.balancing.POLICIES."""
        self._view = view
        limits = limits or CallLimits()
        self._endpoints = EndpointSet(view, open_channel, now, limits.max_in_flight_per_replica)
        metrics = PoolMetrics(metrics_registry or CollectorRegistry())
        self._choice = ReplicaChoice(
            self._endpoints, metrics, policy=policy, limits=limits, budget=budget, rng=rng, now=now
        )

    def deployment(self, name: str) -> Deployment:
        """The deployment that clients call `name`. Raises ModelNotFound that lists what there is."""
        deployments = self._view().deployments
        try:
            return deployments[name]
        except KeyError:
            known = ", ".join(sorted(deployments)) or "nothing"
            raise ModelNotFound(f"model '{name}' is not deployed; deployed: {known}", field="model") from None

    def first_hop(self, name: str) -> Kind:
        """Where a request for the deployment enters. Raises ModelNotFound."""
        return SERVICE_KIND_TRANSFORMER if self.deployment(name).HasField("transformer") else SERVICE_KIND_PREDICTOR

    async def unary(
        self,
        kind: Kind,
        deployment_name: str,
        call: Callable[[Channel], Awaitable[T]],
        *,
        version: str = "",
        request: Request = ANY,
    ) -> T:
        """The result of `call` on the channel of one replica of `kind` that serves the deployment.

        `call` may be made again on another replica, also when the first died at work on it: it must be safe to repeat.
        version: of the model; empty means any. Raises Unavailable when none is ready or none can be reached, Overloaded
        when too many wait for one, DeadlineExceeded, and the MeshError that the replica answered.
        """
        return await call_unary(self._choice, Target(kind, deployment_name, version), call, request)

    def stream(
        self,
        kind: Kind,
        deployment_name: str,
        call: Callable[[Channel], AsyncIterable[T]],
        *,
        version: str = "",
        request: Request = ANY,
    ) -> AsyncGenerator[T, None]:
        """As `unary`, for the messages of a stream; another replica is asked only before the first message.

        Close the generator (`contextlib.aclosing`) when leaving it early: that cancels the call at the replica.
        """
        return call_stream(self._choice, Target(kind, deployment_name, version), call, request)

    def resumable_stream(
        self,
        kind: Kind,
        deployment_name: str,
        call: Callable[[Channel], AsyncGenerator[T, None]],
        *,
        version: str = "",
        request: Request = ANY,
    ) -> AsyncGenerator[T, None]:
        """As `stream`, for a call that can be made again at any time and then goes on after the messages that it gave.

        It is, when its replica dies, and when its replica leaves while another serves the deployment. The call may
        raise BrokenAnswer and CannotContinue (mesh/resumable_stream.py).
        """
        return call_resumable(self._choice, Target(kind, deployment_name, version), call, request)

    def notice(self, _view: MeshView) -> None:
        """Take in a change of the view at once: for `Discovery.on_change`. Without it the next call does, and requests
        that wait for a replica soon."""
        self._choice.notice()

    async def close(self) -> None:
        """Close all channels; calls still running or waiting end as cancelled."""
        self._choice.close()
        await self._endpoints.close()
