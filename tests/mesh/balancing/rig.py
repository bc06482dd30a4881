"""Replicas as a policy sees them, and requests that go to them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mesh.balancing import Policy, Request


@dataclass(eq=False)
class Replica:
    id: str
    load: float = 0.0
    in_flight: int = 0


def replicas(count: int) -> list[Replica]:
    return [Replica(f"replica-{number}") for number in range(count)]


def prefix(seed: int, num_blocks: int = 10, after: Sequence[int] = ()) -> list[int]:
    """A prompt's hashes: those `after`, and some of its own."""
    rng = random.Random(seed)
    return [*after, *(rng.getrandbits(64) for _ in range(num_blocks))]


def send(policy: Policy, candidates: Sequence[Replica], request: Request) -> Replica:
    """Dispatch a request, which does not end."""
    replica = candidates[policy.pick(list(candidates), request)]
    replica.load += request.cost
    replica.in_flight += 1
    return replica
