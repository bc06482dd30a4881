"""Which replica gets the next request: one small pure policy per file, chosen by name.

A policy sees candidates and picks one of them. It knows no channel and no clock; what it must remember it keeps itself,
one policy object per service and deployment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Protocol, cast

from mesh import plugins

# name → "module:Class"; the class takes a source of randomness.
POLICIES: dict[str, str] = {
    "least_loaded": "mesh.balancing.least_loaded:LeastLoaded",
    "round_robin": "mesh.balancing.round_robin:RoundRobin",
}


class Candidate(Protocol):
    """A replica that could take the request."""

    @property
    def id(self) -> str:
        """Unique and stable while the replica lives."""

    @property
    def in_flight(self) -> int:
        """Requests that this process dispatched to it and that have not ended."""


class Policy(Protocol):
    """A way to choose."""

    def pick(self, candidates: Sequence[Candidate]) -> int:
        """The index of the chosen one; there is at least one. Never blocks, never raises."""


def make_policy(name: str, rng: random.Random) -> Policy:
    """A fresh policy. Raises NotFound that lists the known names."""
    return cast(Policy, plugins.load(POLICIES, name, "balancing policy")(rng))
