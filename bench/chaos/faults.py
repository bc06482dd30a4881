"""What is done to the members of a mesh, so that each service keeps a healthy member at every moment.

A member counts as harmed from just before its fault until it answers again, is announced again, and has had the time
to be found. Which fault comes next is drawn from a seeded generator; whether it may be made just then is the machine's
to say.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import psutil

from bench.chaos.member import Member
from bench.chaos.mesh import MeshUnderTest
from bench.chaos.moved import moved_streams
from bench.chaos.waiting import until
from bench.server_process import CannotStart

# What was started by a killed process ends by itself within this time, or is left over.
_ORPHAN_S = 10.0


class FaultKind(Enum):
    KILL = "kill -9"
    KILL_TREE = "kill -9 of all its processes"
    KILL_ENGINE = "kill -9 of its engine"
    FREEZE = "SIGSTOP"
    FREEZE_ENGINE = "SIGSTOP of its engine"
    DRAIN = "SIGTERM"


OF_PREDICTORS = tuple(FaultKind)
OF_TRANSFORMERS = (FaultKind.KILL, FaultKind.FREEZE, FaultKind.DRAIN)
OF_THE_REGISTRY = (FaultKind.KILL,)


@dataclass(slots=True)
class Fault:
    """Times in seconds since the load began. ended_s: when the member was healthy again.

    drain_s: how long it took from SIGTERM to the end of the process.
    """

    kind: FaultKind
    member: str
    began_s: float
    ended_s: float | None = None
    drain_s: float | None = None


Told = Callable[[Fault], None]


def _nobody(_fault: Fault) -> None:
    """Whom nothing is told."""


class Chaos:
    """faults: what was done. harmed: members that are not healthy now. num_moved: streams that went on elsewhere.

    trouble: what went wrong with the processes themselves, in sentences.
    """

    def __init__(self, mesh: MeshUnderTest, rng: random.Random, clock_s: Callable[[], float]) -> None:
        """clock_s: seconds since the load began."""
        self.faults: list[Fault] = []
        self.trouble: list[str] = []
        self.harmed: set[Member] = set()
        self.num_moved = 0
        self._mesh = mesh
        # Two: how many details are drawn between two faults is a matter of time.
        self._draws, self._details = random.Random(rng.random()), random.Random(rng.random())
        self._clock_s = clock_s
        self._roughness = mesh.scenario.roughness

    async def rage(self, for_s: float, told: Told) -> None:
        """Faults at random for `for_s` seconds; returns when everybody is healthy again."""
        end_s = self._clock_s() + for_s
        every = self.possible()
        async with asyncio.TaskGroup() as group:
            while self._clock_s() < end_s:
                # Of all there are: what is drawn hangs on the seed alone, and the registry does not come up the more
                # often the fewer others may be harmed.
                drawn = self._draws.choice(every)
                if drawn in self.possible():
                    group.create_task(self.inflict(*drawn, told))
                await asyncio.sleep(self._draws.uniform(*self._roughness.pause_s))

    def possible(self) -> list[tuple[FaultKind, Member]]:
        """What may be done now. Predictors come up more often than others: they have more ways to fail."""
        mesh = self._mesh
        found: list[tuple[FaultKind, Member]] = []
        for members, kinds in ((mesh.predictors, OF_PREDICTORS), (mesh.transformers, OF_TRANSFORMERS)):
            healthy = [member for member in members if member not in self.harmed]
            if len(healthy) > 1:
                found += [(kind, member) for member in healthy for kind in kinds]
        if mesh.registry not in self.harmed:
            found += [(kind, mesh.registry) for kind in OF_THE_REGISTRY]
        return found

    async def inflict(self, kind: FaultKind, member: Member, told: Told = _nobody) -> None:
        """Do it, and return when `member` is healthy again. What goes wrong goes to `trouble`."""
        fault = Fault(kind, member.name, self._clock_s())
        self.faults.append(fault)
        told(fault)
        self.harmed.add(member)
        if member in self._mesh.transformers and kind is not FaultKind.FREEZE:
            self.num_moved += await self._moved_by(member)  # its count dies with it
        try:
            if member is self._mesh.registry:
                await self._away(member, self._roughness.registry_away_s)
            elif kind in (FaultKind.FREEZE, FaultKind.FREEZE_ENGINE):
                await self._freeze(kind, member)
            elif kind is FaultKind.KILL_ENGINE:
                await self._kill_engine(member)
            else:
                await self._replace(kind, member, fault)
            await asyncio.sleep(self._roughness.settle_s)
            # Only now: one that did not come back is never counted on again.
            self.harmed.discard(member)
            fault.ended_s = self._clock_s()
        except CannotStart as error:
            self.trouble.append(f"{member.name} after {kind.value}: {error}")

    async def count_moved(self) -> None:
        """Add what those have counted who live to the end."""
        for member in (self._mesh.gateway, *self._mesh.transformers):
            self.num_moved += await self._moved_by(member)

    async def _moved_by(self, member: Member) -> int:
        return await moved_streams(member.metrics_address) if member.metrics_address else 0

    async def _away(self, registry: Member, away_s: float) -> None:
        registry.signal(signal.SIGKILL)
        await registry.until_ended(_ORPHAN_S)
        await asyncio.sleep(away_s)
        registry.start()
        await self._mesh.until_registry_serves()

    async def _freeze(self, kind: FaultKind, member: Member) -> None:
        victim = member.engine() if kind is FaultKind.FREEZE_ENGINE else psutil.Process(member.pid)
        if victim is None:
            self.trouble.append(f"{member.name} has no engine to freeze")
            return
        with suppress(psutil.NoSuchProcess):
            victim.suspend()
        try:
            await asyncio.sleep(self._roughness.frozen_s)
        finally:
            with suppress(psutil.NoSuchProcess):
                victim.resume()
        await self._mesh.until_serving(member)

    async def _kill_engine(self, member: Member) -> None:
        before = member.engine()
        if before is None:
            self.trouble.append(f"{member.name} has no engine to kill")
            return
        before.kill()

        async def has_another() -> bool:
            after = member.engine()
            return after is not None and after.pid != before.pid

        if not await until(has_another, self._mesh.scenario.start_s):
            raise CannotStart("no other engine was started")
        await self._mesh.until_serving(member)

    async def _replace(self, kind: FaultKind, member: Member, fault: Fault) -> None:
        former_ids = self._mesh.replica_ids()
        if kind is FaultKind.DRAIN:
            await self._drain(member, fault)
        elif kind is FaultKind.KILL:
            member.signal(signal.SIGKILL)
        else:
            member.kill_all()
        await member.until_ended(_ORPHAN_S)
        await self._until_nothing_is_left(member)
        await asyncio.sleep(self._details.uniform(*self._roughness.away_s))
        member.start(on_new_port=self._details.random() < 0.5)
        await self._mesh.until_serving(member, former_ids)

    async def _drain(self, member: Member, fault: Fault) -> None:
        scenario = self._mesh.scenario
        limit_s = scenario.drain_s + scenario.grace_s + _ORPHAN_S
        member.signal(signal.SIGTERM)
        if await member.until_ended(limit_s):
            fault.drain_s = self._clock_s() - fault.began_s
        else:
            self.trouble.append(f"{member.name} still runs {limit_s:g} s after SIGTERM")
            member.kill_all()

    async def _until_nothing_is_left(self, member: Member) -> None:
        async def is_empty() -> bool:
            return not member.survivors()

        if await until(is_empty, _ORPHAN_S):
            return
        self.trouble.append(f"{member.name} ended, and {len(member.survivors())} of its processes did not")
        member.kill_all()
