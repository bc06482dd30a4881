"""What nobody can have: choices that know at once what every replica is doing, and holds. And a random one."""

from __future__ import annotations

import random
from typing import Protocol

from bench.balancing.replica import Replica
from bench.balancing.workload import Prompt


class Ideal(Protocol):
    """Chooses for all gateways together."""

    def choose(self, replicas: list[Replica], prompt: Prompt, now: float) -> Replica: ...


class AtRandom:
    """Not ideal at all: the line below which no policy should fall."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, replicas: list[Replica], prompt: Prompt, now: float) -> Replica:
        return self._rng.choice(replicas)


class ShortestQueue:
    """Join the shortest queue: the least work that remains, in seconds of that replica. It knows no prefixes."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, replicas: list[Replica], prompt: Prompt, now: float) -> Replica:
        return min(replicas, key=lambda replica: (replica.remaining_s(now), self._rng.random()))


class PerfectPrefix:
    """The longest prefix that any replica holds now, or will hold when it has read what waits there.

    Of equals the one with the shortest queue; else queues do not matter, so that it overloads who holds a hot text.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def choose(self, replicas: list[Replica], prompt: Prompt, now: float) -> Replica:
        return min(
            replicas,
            key=lambda replica: (-replica.will_hold(prompt), replica.remaining_s(now), self._rng.random()),
        )


IDEALS: dict[str, type[AtRandom] | type[ShortestQueue] | type[PerfectPrefix]] = {
    "random": AtRandom,
    "shortest queue": ShortestQueue,
    "perfect prefix": PerfectPrefix,
}
