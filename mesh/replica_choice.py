"""Who gets the next attempt of a call, and what is learned from how it ended.

An attempt that fails because its replica could not be reached may be made again on another one, within a budget that
all calls share; a replica that fails is kept out for growing times. Nothing here calls anybody.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import grpc
import grpc.aio

from mesh import context
from mesh.balancing import Policy, Request, make_policy
from mesh.balancing.ejection import admitted
from mesh.channel import to_mesh_error
from mesh.endpoints import Endpoint, EndpointSet, Kind, Target
from mesh.errors import ModelNotReady, Unavailable
from mesh.logs import get_logger
from mesh.pool_metrics import PoolMetrics
from mesh.retry import RetryBudget
from mesh.v1.registry_pb2 import ServiceKind

log = get_logger(__name__)

MAX_ATTEMPTS = 3


class ReplicaChoice:
    """For one pool: its endpoints, with a policy for each service and deployment."""

    def __init__(
        self,
        endpoints: EndpointSet,
        metrics: PoolMetrics,
        *,
        policy: str,
        budget: RetryBudget | None = None,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """policy: a name of mesh.balancing.POLICIES; raises NotFound for an unknown one."""
        self.endpoints = endpoints
        self._metrics = metrics
        self._policy_name = policy
        self._policies: dict[tuple[Kind, str], Policy] = {}
        self._budget = budget or RetryBudget(now=now)
        self._rng = rng or random.Random()
        self._now = now
        make_policy(policy, self._rng)

    def on_request(self) -> None:
        """Count a request's first attempt: retries are a share of these."""
        self._budget.on_attempt()

    def choose(self, target: Target, request: Request, tried: list[Endpoint]) -> Endpoint:
        """The replica for the next attempt, added to `tried`; one that was not tried before, if there is one.

        Raises ModelNotReady or Unavailable when nobody serves the target.
        """
        candidates = self._candidates(target)
        if not candidates:
            raise self._nobody(target)
        choice = admitted(candidates, self._now())
        if tried:
            untried = [endpoint for endpoint in candidates if endpoint not in tried]
            # Rather one that was ejected than one that just failed.
            choice = [endpoint for endpoint in choice if endpoint not in tried] or untried or candidates
        endpoint = choice[self._policy(target).pick(choice, request)]
        tried.append(endpoint)
        return endpoint

    def succeeded(self, endpoint: Endpoint) -> None:
        """The attempt ended well."""
        endpoint.outlier.succeeded()
        self._metrics.attempts.labels(service_name(endpoint.replica.kind), "ok").inc()

    def failed(self, endpoint: Endpoint, error: grpc.aio.AioRpcError) -> None:
        """Tell a replica that answers with an error from one that cannot be reached."""
        service = service_name(endpoint.replica.kind)
        is_unreachable = error.code() is grpc.StatusCode.UNAVAILABLE and not is_answer(error)
        self._metrics.attempts.labels(service, "unreachable" if is_unreachable else "error").inc()
        if is_answer(error):
            endpoint.outlier.succeeded()
        elif is_unreachable and endpoint.outlier.failed(self._now()):
            self._metrics.ejections.labels(service).inc()
            replica = endpoint.replica
            log.warning("replica_ejected", replica=replica.id, address=replica.address, reason=error.details())

    def may_retry(self, target: Target, tried: list[Endpoint], error: grpc.aio.AioRpcError) -> bool:
        """True when another replica is left, and time and budget for it; spends from the budget."""
        may = (
            error.code() is grpc.StatusCode.UNAVAILABLE
            and len(tried) < MAX_ATTEMPTS
            and self.has_untried(target, tried)
            and context.remaining_s(default=1.0) != 0
            and self._budget.try_spend()
        )
        if may:
            self._metrics.retries.labels(service_name(target.kind)).inc()
        return may

    def has_untried(self, target: Target, tried: list[Endpoint]) -> bool:
        """True when a replica that is not in `tried` serves the target."""
        return any(endpoint not in tried for endpoint in self._candidates(target))

    def may_resume(self, target: Target, tried: list[Endpoint]) -> bool:
        """True when a replica that is not in `tried` serves the target, and the budget allows a try; spends from it."""
        return self.has_untried(target, tried) and self._budget.try_spend()

    def resumed(self, target: Target, reason: str) -> None:
        """A stream goes on at another replica. reason: a word of PoolMetrics."""
        self._metrics.resumptions.labels(service_name(target.kind), reason).inc()

    def _candidates(self, target: Target) -> list[Endpoint]:
        # Of a version that nobody has, any replica of the model says best what is wrong with it.
        found = self.endpoints.serving(target) or self.endpoints.serving(Target(target.kind, target.deployment))
        return list(self.endpoints.responsive(found))

    def _policy(self, target: Target) -> Policy:
        key = (target.kind, target.deployment)
        policy = self._policies.get(key)
        if policy is None:
            if len(self._policies) > 1024:
                self._policies.clear()  # of deployments long gone, most of them
            policy = self._policies[key] = make_policy(self._policy_name, self._rng)
        return policy

    def _nobody(self, target: Target) -> Unavailable:
        replicas = self.endpoints.of_kind(target.kind)
        service = service_name(target.kind)
        if any(model.name == target.deployment for replica in replicas for model in replica.models):
            return ModelNotReady(f"model '{target.deployment}' is not ready yet at any {service}")
        return Unavailable(f"no ready {service} for '{target.deployment}'; {len(replicas)} known to the mesh")


def is_answer(error: grpc.aio.AioRpcError) -> bool:
    """True when the replica itself said it: our servers put the request's id on every error, a broken way cannot."""
    return any(name == context.REQUEST_ID_HEADER for name, _ in error.trailing_metadata() or ())


def as_mesh_error(error: grpc.aio.AioRpcError, target: Target) -> Exception:
    """What the caller of the pool is told of the last attempt."""
    if error.code() is grpc.StatusCode.UNAVAILABLE and not is_answer(error):
        service = service_name(target.kind)
        return Unavailable(f"the {service} for '{target.deployment}' cannot be reached: {error.details()}")
    return to_mesh_error(error)


def service_name(kind: Kind) -> str:
    """The service in words: "predictor"."""
    return ServiceKind.Name(kind).removeprefix("SERVICE_KIND_").lower()
