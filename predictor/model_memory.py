"""Room in memory for loads: waits for it, and has idle models evicted to make it, as `predictor.residency` decides.

Knows sizes and slots, not models: the owner is asked to evict. On one event loop only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.errors import ModelTooLarge, Overloaded
from predictor.residency import Plan, Residency, Slot

_MIB = 1024 * 1024

# Begins to take a model out of memory, and returns at once; ModelMemory.left() must follow.
Evict = Callable[[Slot], None]


class NoRoom(Overloaded):
    """Nothing could leave memory in time. Says nothing about the model that wanted in."""


class ModelMemory:
    """`wait_s`: longest that a load waits for room."""

    def __init__(self, budget_bytes: int, evict: Evict, *, wait_s: float) -> None:
        self._residency = Residency(budget_bytes)
        self._evict = evict
        self._wait_s = wait_s
        self._starts: dict[Slot, asyncio.Event] = {}

    @property
    def budget_bytes(self) -> int:
        """0: without end."""
        return self._residency.budget_bytes

    @property
    def used_bytes(self) -> int:
        """What is in memory: loading, resident and leaving."""
        return self._residency.used_bytes

    def want(self, size_bytes: int) -> Slot:
        """Ask for room for a model; `wait_for` says when it is there. Raises ModelTooLarge."""
        if not self._residency.can_ever_hold(size_bytes):
            raise ModelTooLarge(
                f"{mib(size_bytes)} of memory are needed, and the predictor's budget is {mib(self.budget_bytes)} "
                "(memory_budget_mb)"
            )
        slot = self._residency.want(size_bytes)
        self._starts[slot] = asyncio.Event()
        self.serve_waiting()
        return slot

    async def wait_for(self, slot: Slot) -> None:
        """Until the slot's room is free. Raises NoRoom when time is up; then, or when cancelled, it is given up."""
        start = self._starts[slot]
        if start.is_set():
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await start.wait()
        except TimeoutError:
            self.left(slot)
            raise self.no_room(slot, self._wait_s) from None
        except asyncio.CancelledError:
            self.left(slot)
            raise

    def no_room(self, slot: Slot, waited_s: float) -> NoRoom:
        """What is answered to those who waited in vain."""
        return NoRoom(
            f"{mib(slot.size_bytes)} of memory did not become free within {waited_s:.3g} s: "
            f"all models in memory are in use, and the budget is {mib(self.budget_bytes)}"
        )

    def loaded(self, slot: Slot, size_bytes: int) -> bool:
        """The slot's model is in memory and takes `size_bytes`. False: there is no room for so much; unload it.

        Those who waited for the model acquire it next, and then `serve_waiting` looks after the others: in between,
        the model could be evicted for them before it was used.
        """
        plan = self._residency.loaded(slot, size_bytes)
        if plan is None:
            return False
        self._follow(plan)
        return True

    def acquire(self, slot: Slot) -> None:
        """The model is used: it stays until `release`."""
        self._residency.acquire(slot)

    def release(self, slot: Slot) -> None:
        """One use has ended."""
        self._residency.release(slot)
        if not slot.num_holds and self._residency.has_waiting:
            self.serve_waiting()

    def serve_waiting(self) -> None:
        """Start and evict what can be now."""
        if self._residency.has_waiting:
            self._follow(self._residency.plan())

    def leave(self, slot: Slot) -> None:
        """The owner unloads the model; `left` must follow."""
        self._residency.leave(slot)

    def left(self, slot: Slot) -> None:
        """The slot's model is out of memory, or did not get into it. Harmless a second time."""
        self._starts.pop(slot, None)
        self._residency.left(slot)
        self.serve_waiting()

    def _follow(self, plan: Plan) -> None:
        for slot in plan.start:
            self._starts[slot].set()
        for slot in plan.evict:
            self._evict(slot)


def mib(size_bytes: int) -> str:
    """For people."""
    return f"{size_bytes / _MIB:,.1f} MiB"
