"""Who gets the next attempt of a call, and what is learned from how it ended.

An attempt that failed may be made again at another replica, within a budget that all calls share; a replica that fails
is kept out for growing times. A request for which nobody is free, or ready, waits. Nothing here calls anybody.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, field, replace

import grpc.aio
from prometheus_client import Counter

from mesh import context
from mesh.attempt_failure import Failure, as_mesh_error, failure_of, is_answer, service_name
from mesh.balancing import Policy, Request, make_policy
from mesh.balancing.ejection import admitted
from mesh.call_limits import CallLimits
from mesh.endpoints import Endpoint, EndpointSet, Kind, Target
from mesh.errors import MeshError, ModelNotReady, Overloaded, Unavailable
from mesh.logs import get_logger
from mesh.pool_metrics import PoolMetrics
from mesh.request_queue import RequestQueues
from mesh.retry import RetryBudget

log = get_logger(__name__)

MAX_ATTEMPTS = 3
_LONGEST_RETRY_AFTER_S = 60.0


@dataclass(slots=True, eq=False)
class Attempts:
    """What one request has been through.

    tried: replicas, in order. num_delivered: of the failed attempts, those of which a replica may have heard. failure:
    the last one. held_since: when for the first time nobody was left to ask. has_begun: messages of a stream came.
    """

    target: Target
    request: Request
    tried: list[Endpoint] = field(default_factory=list)
    num_delivered: int = 0
    failure: grpc.aio.AioRpcError | None = None
    held_since: float | None = None
    has_begun: bool = False


class ReplicaChoice:
    """For one pool: its endpoints, with a policy for each service and deployment, and its queues."""

    def __init__(
        self,
        endpoints: EndpointSet,
        metrics: PoolMetrics,
        *,
        policy: str,
        limits: CallLimits | None = None,
        budget: RetryBudget | None = None,
        rng: random.Random | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """policy: a name of mesh.balancing.POLICIES; raises NotFound for an unknown one."""
        self.endpoints = endpoints
        self.limits = limits or CallLimits()
        self._metrics = metrics
        self._policy_name = policy
        self._policies: dict[tuple[Kind, str], Policy] = {}
        self._num_ok: dict[Kind, Counter] = {}
        self._budget = budget or RetryBudget(now=now)
        self._rng = rng or random.Random()
        self._now = now
        self._queues = RequestQueues(endpoints, self.limits, metrics, self._grant)
        endpoints.on_freed = self._queues.freed
        endpoints.on_left = self._retain
        make_policy(policy, self._rng)

    def begin(self, target: Target, request: Request) -> Attempts:
        """A request that has not been tried; counted, since retries are a share of these.

        A request without a key gets that of the session of the request that is being handled.
        """
        self._budget.on_attempt()
        handled = context.current()
        if handled is not None and handled.session and not request.key:
            request = replace(request, key=handled.session)
        return Attempts(target, request)

    async def choose(self, attempts: Attempts) -> Endpoint:
        """The replica for the next attempt, added to `attempts.tried`; to be dispatched to before anything is awaited.

        Another attempt goes to a replica that was not tried before, even to a full one: its request has waited once.
        Only while there is none, and the first attempt while all are full, wait. Raises ModelNotReady or Unavailable
        when nobody serves the target, Overloaded when too many wait or this one has waited too long, and
        DeadlineExceeded.
        """
        is_first = not attempts.tried and not attempts.has_begun
        endpoint = self._first(attempts) if is_first else self._another(attempts)
        if endpoint is None:
            endpoint = await self._wait(attempts)
        attempts.tried.append(endpoint)
        return endpoint

    def succeeded(self, endpoint: Endpoint) -> None:
        """The attempt ended well."""
        endpoint.outlier.succeeded()
        kind = endpoint.replica.kind
        counter = self._num_ok.get(kind)
        if counter is None:  # kept, since the look-up by labels costs as much as the choice
            counter = self._num_ok[kind] = self._metrics.attempts.labels(service_name(kind), "ok")
        counter.inc()

    def failed(self, attempts: Attempts, endpoint: Endpoint, error: grpc.aio.AioRpcError) -> None:
        """Tell a replica that answers with an error from one that is lost. To be called while it is dispatched."""
        failure = failure_of(error, self._known(attempts.target))
        attempts.failure = error
        attempts.num_delivered += failure is not Failure.NEVER_SENT
        service = service_name(endpoint.replica.kind)
        outcome = "unreachable" if failure.is_silence else "broken" if failure is Failure.BROKEN else "error"
        self._metrics.attempts.labels(service, outcome).inc()
        if not failure.blames_replica:
            if is_answer(error):
                endpoint.outlier.succeeded()
        elif endpoint.outlier.failed(self._now()):
            self._metrics.ejections.labels(service).inc()
            replica = endpoint.replica
            log.warning("replica_ejected", replica=replica.id, address=replica.address, reason=error.details())

    def may_retry(self, attempts: Attempts) -> bool:
        """True when another replica may do better than the last, and there is time and budget for it.

        A call of which nobody heard is as good as a first one: it costs nothing, and is no attempt.
        """
        assert attempts.failure is not None  # asked after a failure
        failure = failure_of(attempts.failure, self._known(attempts.target))
        may = bool(
            failure is not Failure.FINAL
            and context.remaining_s(default=1.0) != 0
            and (self._untried(attempts) or (failure.is_silence and self._hold_left_s(attempts) > 0))
            and (failure is Failure.NEVER_SENT or (attempts.num_delivered < MAX_ATTEMPTS and self._budget.try_spend()))
        )
        if may:
            self._metrics.retries.labels(service_name(attempts.target.kind)).inc()
        return may

    def has_untried(self, attempts: Attempts) -> bool:
        """True when a replica that was not tried serves the target."""
        return bool(self._untried(attempts))

    def may_resume(self, attempts: Attempts) -> bool:
        """True when a replica that was not tried serves the target, and the budget allows a try; spends from it."""
        return self.has_untried(attempts) and self._budget.try_spend()

    def may_move(self, attempts: Attempts) -> bool:
        """As `may_resume`, for a stream whose replica departs and still answers: to one that is well and stays."""
        now = self._now()
        staying = (endpoint for endpoint in self._untried(attempts) if not endpoint.departing.is_set())
        return any(end.outlier.admits(now, end.in_flight) for end in staying) and self._budget.try_spend()

    def resumed(self, target: Target, reason: str) -> None:
        """A stream goes on at another replica. reason: a word of PoolMetrics."""
        self._metrics.resumptions.labels(service_name(target.kind), reason).inc()

    def hedge(self, attempts: Attempts) -> Endpoint | None:
        """A second replica for a call that is slow at its first, to be dispatched to at once; spends from the budget.

        None when no healthy one has room, or the budget has none.
        """
        now = self._now()
        healthy = [end for end in self._untried(attempts) if end.outlier.admits(now, end.in_flight)]
        endpoint = self._pick(attempts.target, attempts.request, self._free(healthy))
        if endpoint is None or not self._budget.try_spend():
            return None
        self._metrics.hedges.labels(service_name(attempts.target.kind)).inc()
        attempts.tried.append(endpoint)
        return endpoint

    def notice(self) -> None:
        """The view has changed: those who wait may have somebody now."""
        self.endpoints.follow_view()
        self._queues.serve()

    def close(self) -> None:
        """Let nobody wait any more."""
        self._queues.close()

    # Who may have the request

    def _first(self, attempts: Attempts) -> Endpoint | None:
        """Somebody at once, if anybody is free; raises when nobody is there and requests are not held."""
        target = attempts.target
        candidates = self._candidates(target)
        if not candidates:
            if self._hold_left_s(attempts) <= 0:
                raise self._nobody(target)
            return None
        # With all of them failing, and nobody held, there is nothing to wait for.
        if self._queues.is_waited_for(self._known(target)) and (self.limits.hold_s or self._is_any_well(target)):
            return None
        return self._pick(target, attempts.request, self._free(admitted(candidates, self._now())))

    def _another(self, attempts: Attempts) -> Endpoint | None:
        """One that was not tried, rather one that was ejected than none."""
        untried = self._untried(attempts)
        now = self._now()
        healthy = [endpoint for endpoint in untried if endpoint.outlier.admits(now, endpoint.in_flight)]
        return self._pick(attempts.target, attempts.request, self._free(healthy) or healthy or untried)

    def _untried(self, attempts: Attempts) -> Sequence[Endpoint]:
        return self._staying([end for end in self._responsive(attempts.target) if end not in attempts.tried])

    def _grant(self, target: Target, request: Request) -> Endpoint | None:
        """One for a request that has waited: nobody who is known to fail, unless it is time to try him again."""
        now = self._now()
        candidates = self._candidates(target)
        healthy = [endpoint for endpoint in candidates if endpoint.outlier.admits(now, endpoint.in_flight)]
        return self._pick(target, request, self._free(healthy))

    def _free(self, candidates: Sequence[Endpoint]) -> Sequence[Endpoint]:
        full = self.endpoints.full
        return [endpoint for endpoint in candidates if endpoint not in full] if full else candidates

    def _pick(self, target: Target, request: Request, candidates: Sequence[Endpoint]) -> Endpoint | None:
        return candidates[self._policy(target).pick(candidates, request)] if candidates else None

    def _candidates(self, target: Target) -> Sequence[Endpoint]:
        return self._staying(self._responsive(target))

    def _responsive(self, target: Target) -> Sequence[Endpoint]:
        # Of a version that nobody has, any replica of the model says best what is wrong with it.
        found = self.endpoints.serving(target) or self.endpoints.serving(Target(target.kind, target.deployment))
        return self.endpoints.responsive(found)

    def _staying(self, endpoints: Sequence[Endpoint]) -> Sequence[Endpoint]:
        """Those that do not drain; all of them while none of those is well, for one that drains answers to its end."""
        draining = self.endpoints.draining
        if not draining:
            return endpoints
        now = self._now()
        staying = [endpoint for endpoint in endpoints if endpoint not in draining]
        return staying if any(end.outlier.admits(now, end.in_flight) for end in staying) else endpoints

    def _policy(self, target: Target) -> Policy:
        key = (target.kind, target.deployment)
        policy = self._policies.get(key)
        if policy is None:
            if len(self._policies) > 1024:
                self._policies.clear()  # of deployments long gone, most of them
            policy = self._policies[key] = make_policy(self._policy_name, self._rng)
        return policy

    def _retain(self, ids: Set[str]) -> None:
        for policy in self._policies.values():
            policy.retain(ids)

    # Waiting

    async def _wait(self, attempts: Attempts) -> Endpoint:
        is_first = not attempts.tried and not attempts.has_begun
        if is_first and self._is_any_well(attempts.target):
            limit_s = self.limits.queue_timeout_s
        else:
            if attempts.held_since is None:
                attempts.held_since = self._now()
            limit_s = self._hold_left_s(attempts)
        return await self._queues.wait(
            self._known(attempts.target), attempts.request, limit_s, lambda waited_s: self._late(attempts, waited_s)
        )

    def _is_any_well(self, target: Target) -> bool:
        """True when a replica has not failed since it last answered: who waits for it waits because it is busy."""
        return any(endpoint.outlier.ejected_until == 0.0 for endpoint in self._candidates(target))

    def _known(self, target: Target) -> Target:
        """The target without its version, when nobody is said to serve that."""
        if not target.version or self.endpoints.serving(target):
            return target
        return Target(target.kind, target.deployment)

    def _hold_left_s(self, attempts: Attempts) -> float:
        """Seconds for which the request may still be held; 0 for what the mesh does not know, or has a fallback for."""
        if not self.limits.hold_s or not self.endpoints.is_without_fallback(attempts.target.deployment):
            return 0.0
        held_s = 0.0 if attempts.held_since is None else self._now() - attempts.held_since
        return max(0.0, self.limits.hold_s - held_s)

    def _late(self, attempts: Attempts, waited_s: float) -> MeshError:
        """Why a request that waited gets no replica."""
        target = attempts.target
        # It was tried for so long here; the next try may as well be as long.
        retry_after_s = min(_LONGEST_RETRY_AFTER_S, max(1.0, waited_s))
        if not self._candidates(target):
            return self._nobody(target, retry_after_s)
        if attempts.failure is not None:
            error = as_mesh_error(attempts.failure, target)
            error.retry_after_s = retry_after_s
            return error
        if self._is_any_well(target):
            sentence = f"all replicas of '{target.deployment}' are busy; the request waited {waited_s:.1f} s for one"
            return Overloaded(sentence, retry_after_s=retry_after_s)
        sentence = f"no {service_name(target.kind)} for '{target.deployment}' can be reached"
        return Unavailable(sentence, retry_after_s=retry_after_s)

    def _nobody(self, target: Target, retry_after_s: float = 1.0) -> Unavailable:
        replicas = self.endpoints.of_kind(target.kind)
        service = service_name(target.kind)
        if any(model.name == target.deployment for replica in replicas for model in replica.models):
            sentence = f"model '{target.deployment}' is not ready yet at any {service}"
            return ModelNotReady(sentence, retry_after_s=retry_after_s)
        sentence = f"no ready {service} for '{target.deployment}'; {len(replicas)} known to the mesh"
        return Unavailable(sentence, retry_after_s=retry_after_s)
