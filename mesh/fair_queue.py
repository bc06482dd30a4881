"""A bounded queue that is fair between tenants: higher priorities first, then each tenant its share, then in order.

Shares are by cost, with self-clocked fair queueing (Golestani, INFOCOM 1994): the next request of a tenant is due when
the tenant was last served, plus its cost, in virtual time, which is the due time of what was taken last. A tenant with
a thousand waiting requests so delays another's by one of its own. When the queue is full, whoever has most waiting
gives way (McKenney's buffer stealing), so nobody can fill it against others. Pure: no clock and no tasks; every
operation is O(log n).
"""

from __future__ import annotations

import heapq
from bisect import insort
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Entry(Generic[T]):
    """One that waits. cost: above 0, in any unit that all entries share."""

    item: T
    tenant: str = ""
    priority: int = 0
    cost: float = 1.0


class FairQueue(Generic[T]):
    """Holds at most `capacity` entries."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._size = 0
        self._levels: dict[int, _Level[T]] = {}
        self._priorities: list[int] = []  # of the levels, in order

    def __len__(self) -> int:
        return self._size

    def push(self, entry: Entry[T]) -> Entry[T] | None:
        """Let `entry` wait. Returns the one that has no place now: nobody, an entry that gave way, or `entry` itself.

        The last of the lowest priority gives way to a higher one; in one priority, the last of the tenant that has the
        most waiting, if that is more than the newcomer's tenant would have.
        """
        loser = None
        if self._size >= self._capacity:
            loser = self._loser_to(entry)
            if loser is entry:
                return entry
            self.remove(loser)
        level = self._levels.get(entry.priority)
        if level is None:
            level = self._levels[entry.priority] = _Level()
            insort(self._priorities, entry.priority)
        level.push(entry)
        self._size += 1
        return loser

    def first(self) -> Entry[T]:
        """Whose turn it is. Raises IndexError when nobody waits."""
        return self._levels[self._priorities[-1]].first()

    def pop(self) -> Entry[T]:
        """Take out whose turn it is. Raises IndexError when nobody waits."""
        priority = self._priorities[-1]
        entry = self._levels[priority].pop()
        self._left(priority)
        return entry

    def remove(self, entry: Entry[T]) -> bool:
        """Take out an entry whose turn has not come; False when it does not wait here."""
        level = self._levels.get(entry.priority)
        if level is None or not level.remove(entry):
            return False
        self._left(entry.priority)
        return True

    def entries(self) -> list[Entry[T]]:
        """All that wait, in no order that matters."""
        return [entry for level in self._levels.values() for entry in level.entries()]

    def _left(self, priority: int) -> None:
        self._size -= 1
        if not self._levels[priority]:
            del self._levels[priority]
            self._priorities.remove(priority)

    def _loser_to(self, newcomer: Entry[T]) -> Entry[T]:
        if not self._priorities or self._priorities[0] > newcomer.priority:
            return newcomer
        lowest = self._priorities[0]
        level = self._levels[lowest]
        if lowest == newcomer.priority and level.num_most_waiting <= level.num_waiting(newcomer.tenant) + 1:
            return newcomer
        return level.last_of_most_waiting()


@dataclass(slots=True, eq=False)
class _Tenant(Generic[T]):
    """The entries of one tenant in one level, in order. served_at: in virtual time, when last, or when it came."""

    name: str
    served_at: float
    entries: OrderedDict[Entry[T], None] = field(default_factory=OrderedDict)
    # Of the one valid item in the heap; others with this tenant are of heads that left.
    turn: int = 0


class _Level(Generic[T]):
    """The entries of one priority."""

    def __init__(self) -> None:
        self._now = 0.0
        self._tenants: dict[str, _Tenant[T]] = {}
        # One item for each tenant, by when its first entry is due; stale ones are left in until they come up.
        self._due: list[tuple[float, int, _Tenant[T]]] = []
        self._turns = count(1)
        # Tenants by how many they have waiting: the n-th dict has those with n.
        self._by_count: list[dict[str, None]] = [{}]

    def __bool__(self) -> bool:
        return bool(self._tenants)

    @property
    def num_most_waiting(self) -> int:
        """How many the tenant has that has the most."""
        return len(self._by_count) - 1

    def num_waiting(self, tenant: str) -> int:
        known = self._tenants.get(tenant)
        return len(known.entries) if known else 0

    def last_of_most_waiting(self) -> Entry[T]:
        return next(reversed(self._tenants[next(iter(self._by_count[-1]))].entries))

    def entries(self) -> list[Entry[T]]:
        return [entry for tenant in self._tenants.values() for entry in tenant.entries]

    def push(self, entry: Entry[T]) -> None:
        tenant = self._tenants.get(entry.tenant)
        if tenant is None:
            tenant = self._tenants[entry.tenant] = _Tenant(entry.tenant, self._now)
        tenant.entries[entry] = None
        self._recount(tenant, -1)
        if len(tenant.entries) == 1:
            self._await_turn(tenant)

    def first(self) -> Entry[T]:
        while self._due[0][1] != self._due[0][2].turn:
            heapq.heappop(self._due)
        return next(iter(self._due[0][2].entries))

    def pop(self) -> Entry[T]:
        self.first()
        due, _, tenant = heapq.heappop(self._due)
        self._now = max(self._now, due)
        tenant.served_at = self._now
        entry, _ = tenant.entries.popitem(last=False)
        self._shrunk(tenant, was_first=True)
        return entry

    def remove(self, entry: Entry[T]) -> bool:
        tenant = self._tenants.get(entry.tenant)
        if tenant is None or entry not in tenant.entries:
            return False
        was_first = next(iter(tenant.entries)) is entry
        del tenant.entries[entry]
        self._shrunk(tenant, was_first=was_first)
        return True

    def _shrunk(self, tenant: _Tenant[T], *, was_first: bool) -> None:
        self._recount(tenant, 1)
        if not tenant.entries:
            tenant.turn = 0
            del self._tenants[tenant.name]
        elif was_first:
            self._await_turn(tenant)

    def _await_turn(self, tenant: _Tenant[T]) -> None:
        tenant.turn = next(self._turns)
        due = tenant.served_at + next(iter(tenant.entries)).cost
        heapq.heappush(self._due, (due, tenant.turn, tenant))
        if len(self._due) > 2 * len(self._tenants) + 16:
            self._due = [item for item in self._due if item[1] == item[2].turn]
            heapq.heapify(self._due)

    def _recount(self, tenant: _Tenant[T], num_more_before: int) -> None:
        """Note how many the tenant has now, which were `num_more_before` more a moment ago."""
        now = len(tenant.entries)
        self._by_count[now + num_more_before].pop(tenant.name, None)
        if now == len(self._by_count):
            self._by_count.append({})
        if now:
            self._by_count[now][tenant.name] = None
        while len(self._by_count) > 1 and not self._by_count[-1]:
            self._by_count.pop()
