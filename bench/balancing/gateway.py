"""A gateway of the simulation: the real policy and the real endpoints, which know what this gateway would know."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import cast

import grpc.aio

from bench.balancing.replica import Replica
from mesh.balancing import Policy, Request, make_policy
from mesh.endpoints import Endpoint
from mesh.load_report import LoadReport
from mesh.v1.registry_pb2 import Replica as Announced

NO_CHANNEL = cast(grpc.aio.Channel, None)


class Gateway:
    """Sends requests by a policy of mesh.balancing."""

    def __init__(self, policy: str | Callable[[random.Random], Policy], rng: random.Random) -> None:
        self._policy = make_policy(policy, rng) if isinstance(policy, str) else policy(rng)
        self._endpoints: dict[str, Endpoint] = {}
        self._candidates: list[Endpoint] = []

    def follow(self, replicas: Iterable[Replica]) -> None:
        """These are all replicas that there are now."""
        known = self._endpoints
        self._endpoints = {
            replica.id: known.get(replica.id) or Endpoint(Announced(id=replica.id), NO_CHANNEL) for replica in replicas
        }
        self._candidates = list(self._endpoints.values())
        self._policy.retain(frozenset(self._endpoints))

    def choose(self, request: Request) -> str:
        """The id of the replica that gets it; counted as dispatched."""
        # The pool makes a new list for each call, too.
        endpoint = self._candidates[self._policy.pick(list(self._candidates), request)]
        endpoint.in_flight += 1
        endpoint.dispatched_work += request.cost
        return endpoint.id

    def ended(self, replica_id: str, request: Request) -> None:
        """A request that was dispatched there has ended, whichever way."""
        endpoint = self._endpoints.get(replica_id)
        if endpoint is not None:
            endpoint.in_flight -= 1
            endpoint.dispatched_work = endpoint.dispatched_work - request.cost if endpoint.in_flight else 0.0

    def reported(self, replica_id: str, report: LoadReport, now: float) -> None:
        """What a replica says of its load has come here."""
        endpoint = self._endpoints.get(replica_id)
        if endpoint is not None:
            endpoint.reported(report, now)
