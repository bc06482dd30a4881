"""Which replica gets the next request: one small pure policy per file, chosen by name.

A policy sees candidates and what is known of the request, and picks one of them. It knows no channel and no clock; what
it must remember it keeps itself, bounded, one policy object per service and deployment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Protocol, cast

from mesh import plugins

# name → "module:Class"; the class takes a source of randomness.
POLICIES: dict[str, str] = {
    "consistent_hash": "mesh.balancing.consistent_hash:ConsistentHash",
    "least_loaded": "mesh.balancing.least_loaded:LeastLoaded",
    "prefix_affinity": "mesh.balancing.prefix_affinity:PrefixAffinity",
    "round_robin": "mesh.balancing.round_robin:RoundRobin",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What a policy may know of a request.

    prefix: chained hashes of the blocks of its text, the first block's first: equal hashes mean that all text up to
    there is equal. Empty: nothing to share. key: requests of one key belong on one replica. Empty: of none. cost: how
    much work it is beside others of its deployment; in tokens for text, 1 for tensors. priority: no policy's; where
    requests wait, higher ones go first. None: the priority of the request's context.
    """

    prefix: Sequence[int] = ()
    key: str = ""
    cost: float = 1.0
    priority: int | None = None


ANY = Request()


class Candidate(Protocol):
    """A replica that could take the request."""

    @property
    def id(self) -> str:
        """Unique and stable while the replica lives."""

    @property
    def in_flight(self) -> int:
        """Requests that this process dispatched to it and that have not ended."""

    @property
    def load(self) -> float:
        """Work that waits or runs there, as far as it is known, in the unit of `Request.cost`.

        At least what this process dispatched itself: a replica cannot draw traffic by reporting less.
        """


class Policy(Protocol):
    """A way to choose."""

    def pick(self, candidates: Sequence[Candidate], request: Request) -> int:
        """The index of the chosen one; there is at least one. Never blocks, never raises. The request goes there."""

    def retain(self, ids: Set[str]) -> None:
        """Forget what is remembered of replicas other than these."""


def make_policy(name: str, rng: random.Random) -> Policy:
    """A fresh policy. Raises NotFound that lists the known names."""
    return cast(Policy, plugins.load(POLICIES, name, "balancing policy")(rng))
