"""One run: a trace of requests, gateways that choose, replicas that answer, some that die or join; in virtual time.

Nothing is random but what the seed says, and no clock is read: the same setting gives the same result.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from bench.balancing.gateway import Gateway
from bench.balancing.ideals import IDEALS, Ideal
from bench.balancing.replica import Job, Replica, Speed
from bench.balancing.workload import Prompt, Workload, mean_tokens, trace
from mesh.balancing import Policy
from mesh.load_report import LoadReport

PolicyMaker: TypeAlias = Callable[[random.Random], Policy]

# How long a dead replica stays away until an empty one takes its place.
REPLACED_AFTER_S = 5.0


@dataclass(frozen=True, slots=True)
class Setting:
    """utilisation: what the requests would take of all replicas' time if no prefix were ever held anywhere.

    slow_share: share of the replicas that are half as fast. deaths: replicas that die in the run, one after another,
    and are replaced by empty ones. ping_s: between two reports of load to a gateway that gets no answers; every answer
    brings one, too; none goes stale. delay_s: that a report takes.
    """

    workload: Workload
    replicas: int = 16
    gateways: int = 2
    utilisation: float = 0.8
    slow_share: float = 0.0
    deaths: int = 0
    ping_s: float = 1.0
    delay_s: float = 0.002
    requests: int = 10_000
    speed: Speed = field(default_factory=Speed)

    @property
    def rate(self) -> float:
        """Requests a second."""
        factors = sum(self.factor(number) for number in range(self.replicas))
        return self.utilisation * factors / self.speed.service_s(*mean_tokens(self.workload))

    def factor(self, number: int) -> float:
        """How fast a replica is."""
        return 0.5 if number < self.slow_share * self.replicas else 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a request ended. attempts: 1, and 1 more for every replica that died at work on it."""

    prompt: Prompt
    replica: str
    first_token_s: float
    ended_s: float
    cached_tokens: int
    attempts: int


class Simulation:
    """To be run once."""

    def __init__(self, setting: Setting, policy: str | PolicyMaker, seed: int) -> None:
        """policy: the name of one of mesh.balancing's or of IDEALS, or what makes one."""
        self._setting = setting
        self._rng = random.Random(f"replicas {seed}")
        self._ideal: Ideal | None = None
        if isinstance(policy, str) and policy in IDEALS:
            self._ideal, policy = IDEALS[policy](random.Random(f"ideal {seed}")), "round_robin"
        self._gateways = [Gateway(policy, random.Random(f"gateway {n} {seed}")) for n in range(setting.gateways)]
        self._trace = trace(
            setting.workload, rate=setting.rate, count=setting.requests, gateways=setting.gateways, seed=seed
        )
        self._replicas: dict[str, Replica] = {}
        self._num_joined = 0
        self._attempts = [0] * len(self._trace)
        self._events: list[tuple[float, int, Callable[[object], None], object]] = []
        self._num_events = 0
        self._now = 0.0
        self._outcomes: list[Outcome] = []

    def run(self) -> list[Outcome]:
        """How every request ended, in the order of their ends."""
        for number in range(self._setting.replicas):
            self._join(self._setting.factor(number))
        for prompt in self._trace:
            self._at(prompt.at_s, self._arrive, prompt)
        self._at(self._setting.ping_s, self._ping, None)
        for death in range(self._setting.deaths):
            self._at(self._trace[-1].at_s * (death + 1) / (self._setting.deaths + 1), self._die, None)
        while len(self._outcomes) < len(self._trace):
            self._now, _, handle, what = heapq.heappop(self._events)
            handle(what)
        return self._outcomes

    def _at(self, time_s: float, handle: Callable[..., None], what: object) -> None:
        self._num_events += 1  # breaks ties, in the order in which they were planned
        heapq.heappush(self._events, (time_s, self._num_events, handle, what))

    def _arrive(self, prompt: Prompt) -> None:
        self._attempts[prompt.number] += 1
        gateway = self._gateways[prompt.gateway]
        if self._ideal is not None:
            replica = self._ideal.choose(list(self._replicas.values()), prompt, self._now)
        else:
            replica = self._replicas[gateway.choose(prompt.hint)]
        replica.add(Job(prompt), self._now)
        self._at(replica.next_s, self._advance, replica)

    def _advance(self, replica: Replica) -> None:
        if replica.next_s != self._now or replica.id not in self._replicas:
            return  # planned before something came between
        job = replica.advance(self._now)
        self._at(replica.next_s, self._advance, replica)
        if job is not None:
            self._end(replica, job)

    def _end(self, replica: Replica, job: Job) -> None:
        prompt = job.prompt
        self._outcomes.append(
            Outcome(prompt, replica.id, job.first_token_s, self._now, job.cached_tokens, self._attempts[prompt.number])
        )
        if self._ideal is None:
            self._at(self._now + self._setting.delay_s, self._answered, (replica, prompt, _report(replica)))

    def _answered(self, what: tuple[Replica, Prompt, LoadReport]) -> None:
        replica, prompt, report = what
        gateway = self._gateways[prompt.gateway]
        gateway.ended(replica.id, prompt.hint)
        gateway.reported(replica.id, report, self._now)

    def _ping(self, _: object) -> None:
        for replica in self._replicas.values():
            report = _report(replica)
            for gateway in self._gateways:
                gateway.reported(replica.id, report, self._now)
        self._at(self._now + self._setting.ping_s, self._ping, None)

    def _die(self, _: object) -> None:
        if len(self._replicas) == 1:
            return
        replica = self._replicas.pop(self._rng.choice(list(self._replicas)))
        self._follow()
        self._at(self._now + REPLACED_AFTER_S, self._join, replica.factor)
        for job in replica.jobs():
            self._arrive(job.prompt)

    def _join(self, factor: float) -> None:
        self._num_joined += 1
        replica = Replica(f"replica-{self._num_joined}", self._setting.speed, factor)
        self._replicas[replica.id] = replica
        self._follow()

    def _follow(self) -> None:
        for gateway in self._gateways:
            gateway.follow(self._replicas.values())


def _report(replica: Replica) -> LoadReport:
    return LoadReport(running=replica.num_jobs - len(replica.waiting), queued=len(replica.waiting), work=replica.work)
