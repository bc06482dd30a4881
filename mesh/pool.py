"""Sends calls to the replicas of the next hop: who can take it, who shall, and what happens when it fails.

Requests in flight are counted at dispatch, so that a burst spreads before the first of it is answered. A call that
fails before it gave anything back, because its replica could not be reached, goes to another replica, within a budget
that all calls of the pool share; a failing replica is kept out for growing times. The pool knows neither models nor
messages: a call is a function of a channel.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from typing import TypeVar

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry

from mesh import context
from mesh.balancing import Policy, make_policy
from mesh.balancing.ejection import admitted
from mesh.channel import to_mesh_error
from mesh.endpoints import Endpoint, EndpointSet, Kind
from mesh.errors import ModelNotFound, ModelNotReady, Unavailable
from mesh.logs import get_logger
from mesh.multiplex.channel import open_multiplexed
from mesh.pool_metrics import PoolMetrics
from mesh.retry import RetryBudget
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, SERVICE_KIND_TRANSFORMER, Deployment, ServiceKind
from mesh.view import MeshView

log = get_logger(__name__)

T = TypeVar("T")
Channel = grpc.aio.Channel

MAX_ATTEMPTS = 3


class EndpointPool:
    """Calls to whatever replicas a view names. Use from one event loop only; the owner closes it."""

    def __init__(
        self,
        view: Callable[[], MeshView],
        *,
        policy: str = "least_loaded",
        metrics_registry: CollectorRegistry | None = None,
        budget: RetryBudget | None = None,
        open_channel: Callable[[str], Channel] = open_multiplexed,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """view: what is known now, as in `lambda: discovery.view`. policy: a name of mesh.balancing.POLICIES."""
        self._view = view
        self._endpoints = EndpointSet(view, open_channel)
        self._metrics = PoolMetrics(metrics_registry or CollectorRegistry())
        self._policy_name = policy
        self._policies: dict[tuple[Kind, str], Policy] = {}
        self._budget = budget or RetryBudget(now=now)
        self._rng = rng or random.Random()
        self._now = now
        make_policy(policy, self._rng)  # an unknown name fails here, not at the first request

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

    async def unary(self, kind: Kind, deployment_name: str, call: Callable[[Channel], Awaitable[T]]) -> T:
        """The result of `call` on the channel of one replica of `kind` that serves the deployment.

        `call` may be made again on another replica, also when the first died at work on it: it must be safe to repeat.
        Raises Unavailable when none is ready or none can be reached, and the MeshError that the replica answered.
        """
        self._budget.on_attempt()
        tried: list[Endpoint] = []
        while True:
            endpoint = self._choose(kind, deployment_name, tried)
            with self._endpoints.dispatched(endpoint):
                try:
                    result = await call(endpoint.channel)
                except grpc.aio.AioRpcError as error:
                    failure = error
                else:
                    self._succeeded(endpoint)
                    return result
            self._failed(endpoint, failure)
            if not self._may_retry(kind, deployment_name, tried, failure):
                raise _as_mesh_error(failure, kind, deployment_name) from failure

    async def stream(
        self, kind: Kind, deployment_name: str, call: Callable[[Channel], AsyncIterable[T]]
    ) -> AsyncGenerator[T, None]:
        """As `unary`, for the messages of a stream; another replica is asked only before the first message.

        Close the generator (`contextlib.aclosing`) when leaving it early: that cancels the call at the replica.
        """
        self._budget.on_attempt()
        tried: list[Endpoint] = []
        has_begun = False
        while True:
            endpoint = self._choose(kind, deployment_name, tried)
            with self._endpoints.dispatched(endpoint):
                messages = call(endpoint.channel)
                try:
                    async for message in messages:
                        if not has_begun:
                            has_begun = True
                            endpoint.outlier.succeeded()
                        yield message
                    self._succeeded(endpoint)
                    return
                except grpc.aio.AioRpcError as error:
                    failure = error
                finally:
                    await _end(messages)
            self._failed(endpoint, failure)
            if has_begun or not self._may_retry(kind, deployment_name, tried, failure):
                raise _as_mesh_error(failure, kind, deployment_name) from failure

    async def close(self) -> None:
        """Close all channels; calls still running end as cancelled."""
        await self._endpoints.close()

    def _choose(self, kind: Kind, name: str, tried: list[Endpoint]) -> Endpoint:
        """The replica for the next attempt, added to `tried`; one that was not tried before, if there is one."""
        candidates = self._endpoints.serving(kind, name)
        if not candidates:
            raise self._nobody(kind, name)
        choice = admitted(candidates, self._now())
        if tried:
            untried = [endpoint for endpoint in candidates if endpoint not in tried]
            # Rather one that was ejected than one that just failed.
            choice = [endpoint for endpoint in choice if endpoint not in tried] or untried or candidates
        endpoint = choice[self._policy(kind, name).pick(choice)]
        tried.append(endpoint)
        return endpoint

    def _policy(self, kind: Kind, name: str) -> Policy:
        policy = self._policies.get((kind, name))
        if policy is None:
            if len(self._policies) > 2 * len(self._view().deployments) + 64:
                self._policies.clear()  # of deployments long gone, most of them
            policy = self._policies[kind, name] = make_policy(self._policy_name, self._rng)
        return policy

    def _succeeded(self, endpoint: Endpoint) -> None:
        endpoint.outlier.succeeded()
        self._metrics.attempts.labels(_service(endpoint.replica.kind), "ok").inc()

    def _failed(self, endpoint: Endpoint, error: grpc.aio.AioRpcError) -> None:
        """Tell a replica that answers with an error from one that cannot be reached."""
        service = _service(endpoint.replica.kind)
        is_unreachable = error.code() is grpc.StatusCode.UNAVAILABLE and not _is_answer(error)
        self._metrics.attempts.labels(service, "unreachable" if is_unreachable else "error").inc()
        if _is_answer(error):
            endpoint.outlier.succeeded()
        elif is_unreachable and endpoint.outlier.failed(self._now()):
            self._metrics.ejections.labels(service).inc()
            replica = endpoint.replica
            log.warning("replica_ejected", replica=replica.id, address=replica.address, reason=error.details())

    def _may_retry(self, kind: Kind, name: str, tried: list[Endpoint], error: grpc.aio.AioRpcError) -> bool:
        """True when another replica is left, and time and budget for it; spends from the budget."""
        may = (
            error.code() is grpc.StatusCode.UNAVAILABLE
            and len(tried) < MAX_ATTEMPTS
            and any(endpoint not in tried for endpoint in self._endpoints.serving(kind, name))
            and context.remaining_s(default=1.0) != 0
            and self._budget.try_spend()
        )
        if may:
            self._metrics.retries.labels(_service(kind)).inc()
        return may

    def _nobody(self, kind: Kind, name: str) -> Unavailable:
        replicas = self._endpoints.of_kind(kind)
        if any(model.name == name for replica in replicas for model in replica.models):
            return ModelNotReady(f"model '{name}' is not ready yet at any {_service(kind)}")
        return Unavailable(f"no ready {_service(kind)} for '{name}'; {len(replicas)} known to the mesh")


def _is_answer(error: grpc.aio.AioRpcError) -> bool:
    """True when the replica itself said it: our servers put the request's id on every error, a broken way cannot."""
    return any(name == context.REQUEST_ID_HEADER for name, _ in error.trailing_metadata() or ())


def _as_mesh_error(error: grpc.aio.AioRpcError, kind: Kind, name: str) -> Exception:
    if error.code() is grpc.StatusCode.UNAVAILABLE and not _is_answer(error):
        return Unavailable(f"the {_service(kind)} for '{name}' cannot be reached: {error.details()}")
    return to_mesh_error(error)


def _service(kind: Kind) -> str:
    return ServiceKind.Name(kind).removeprefix("SERVICE_KIND_").lower()


async def _end(messages: AsyncIterable[T]) -> None:
    """Cancel a gRPC call that was left early, or close a generator around one. Does nothing to what has ended."""
    if isinstance(messages, AsyncGenerator):
        await messages.aclose()
    elif isinstance(messages, grpc.aio.Call):
        messages.cancel()
