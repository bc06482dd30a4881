"""Which models are in memory, and which of them leave when another needs room: a budget, and least recently used.

Pure: no clock, no task, no model. The owner reports what happened (`want`, `loaded`, `left`, `release`, …) and then
does what `plan` says. The idea is ModelMesh's; unlike its cache, this one never evicts what is in use, and evicts
nothing for a load that would not fit even then.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum


class Phase(Enum):
    """WAITING for room, LOADING into it, RESIDENT, LEAVING (evicted or replaced, not yet out of memory), GONE."""

    WAITING = 1
    LOADING = 2
    RESIDENT = 3
    LEAVING = 4
    GONE = 5


@dataclass(slots=True, eq=False)
class Slot:
    """One load of one model and the memory that it takes: an estimate until it is RESIDENT.

    num_holds: requests that use the model, or are about to. last_used: counts up over all slots.
    """

    size_bytes: int
    phase: Phase = Phase.WAITING
    num_holds: int = 0
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """evict: slots that are LEAVING from now on. start: slots that are LOADING from now on."""

    evict: tuple[Slot, ...]
    start: tuple[Slot, ...]


class Residency:
    """Keeps the sum of all slots in memory within `budget_bytes`; 0 means without end.

    The sum is above the budget only while a model that turned out larger than its estimate waits for others to leave.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._waiting: list[Slot] = []  # in order of arrival
        self._in_memory: set[Slot] = set()  # LOADING, RESIDENT and LEAVING
        self._num_uses = 0

    @property
    def budget_bytes(self) -> int:
        return self._budget_bytes

    @property
    def used_bytes(self) -> int:
        """What is in memory: loading, resident and leaving. May be asked from another thread, hence the copy."""
        return sum(slot.size_bytes for slot in tuple(self._in_memory))

    @property
    def has_waiting(self) -> bool:
        """True when somebody waits for room, so that `plan` may have something to say."""
        return bool(self._waiting)

    def can_ever_hold(self, size_bytes: int) -> bool:
        """False when a model of this size does not fit into an empty memory."""
        return not self._budget_bytes or size_bytes <= self._budget_bytes

    def want(self, size_bytes: int) -> Slot:
        """A slot that waits for room behind those before it. The caller has asked `can_ever_hold`."""
        slot = Slot(size_bytes)
        self._waiting.append(slot)
        return slot

    def acquire(self, slot: Slot) -> None:
        """A request uses the model: it stays until `release`."""
        slot.num_holds += 1
        self._num_uses += 1
        slot.last_used = self._num_uses

    def release(self, slot: Slot) -> None:
        """The end of a use, which is what counts as the last one."""
        slot.num_holds -= 1
        self._num_uses += 1
        slot.last_used = self._num_uses

    def loaded(self, slot: Slot, size_bytes: int) -> Plan | None:
        """LOADING ends well, with a model of this size: RESIDENT, and what must leave since it is larger than thought.

        None, and nothing changed, when it is larger and the room cannot be made: unload it, and then say `left`.
        """
        grown_bytes = size_bytes - slot.size_bytes
        victims: list[Slot] | None = []
        if grown_bytes > 0:
            victims = self._victims(grown_bytes - self._free_bytes() - self._leaving_bytes())
        if victims is None:
            return None
        slot.size_bytes, slot.phase = size_bytes, Phase.RESIDENT
        self._num_uses += 1
        slot.last_used = self._num_uses
        return self._leave(victims)

    def leave(self, slot: Slot) -> None:
        """A RESIDENT slot is replaced or unloaded by its owner: LEAVING, until `left`."""
        slot.phase = Phase.LEAVING

    def left(self, slot: Slot) -> None:
        """The slot is out of memory, or does not want to get in any more."""
        if slot.phase is Phase.WAITING:
            self._waiting.remove(slot)
        self._in_memory.discard(slot)
        slot.phase = Phase.GONE

    def plan(self) -> Plan:
        """What can be done now, in order of arrival. Who cannot get in yet does not hold up who can.

        A load starts only once its room is free: those evicted for it have left by then.
        """
        free, coming = self._free_bytes(), self._leaving_bytes()
        evict: list[Slot] = []
        start: list[Slot] = []
        for slot in list(self._waiting):
            size = slot.size_bytes
            if not self._budget_bytes or size <= free:
                start.append(slot)
            else:
                victims = self._victims(size - free - coming)
                if victims is None:
                    continue
                evict += self._leave(victims).evict
                coming += sum(victim.size_bytes for victim in victims)
            # Room that is free now is promised first; the rest of the promise comes with those who leave.
            from_free = min(free, size)
            free, coming = free - from_free, coming - (size - from_free)
        for slot in start:
            self._waiting.remove(slot)
            self._in_memory.add(slot)
            slot.phase = Phase.LOADING
        return Plan(tuple(evict), tuple(start))

    def _free_bytes(self) -> int:
        """Below 0 while a model that grew waits for others to leave."""
        return self._budget_bytes - self.used_bytes

    def _leaving_bytes(self) -> int:
        """What will be free soon: not what is unloaded by its owner and still used."""
        leaving = (slot for slot in self._in_memory if slot.phase is Phase.LEAVING and not slot.num_holds)
        return sum(slot.size_bytes for slot in leaving)

    def _victims(self, missing_bytes: int) -> list[Slot] | None:
        """The least recently used idle models that together give `missing_bytes`; None when all of them do not."""
        victims: list[Slot] = []
        if missing_bytes <= 0 or not self._budget_bytes:
            return victims
        idle = (slot for slot in self._in_memory if slot.phase is Phase.RESIDENT and not slot.num_holds)
        for slot in sorted(idle, key=lambda slot: slot.last_used):
            victims.append(slot)
            missing_bytes -= slot.size_bytes
            if missing_bytes <= 0:
                return victims
        return None

    @staticmethod
    def _leave(victims: Iterable[Slot]) -> Plan:
        for victim in victims:
            victim.phase = Phase.LEAVING
        return Plan(evict=tuple(victims), start=())
