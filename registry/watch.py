"""The history of the mesh, as numbered events, and what each watcher of it has still to see.

A watcher is a position in one shared, bounded history: there is no queue per watcher that could grow, and no event that
one could lose or see twice. Who is new, comes from another epoch, or has fallen behind the history gets the state as a
whole (etcd's watch with compaction). Pure but for one asyncio.Event; it knows no gRPC and no database.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable

from mesh.errors import Overloaded, Unavailable
from mesh.v1.registry_pb2 import Deployment, WatchResponse
from mesh.view import MeshView

HISTORY_EVENTS = 4096
MAX_WATCHERS = 1024


class WatchLog:
    """Use from one event loop only. Revisions begin at 1 and grow by one with each event."""

    def __init__(
        self,
        epoch: str,
        deployments: Iterable[Deployment] = (),
        history_events: int = HISTORY_EVENTS,
        max_watchers: int = MAX_WATCHERS,
    ) -> None:
        """epoch: a name that no other WatchLog has, ever. deployments: what there is at the start."""
        self._epoch = epoch
        self._revision = 1
        self._view = MeshView(deployments={deployment.name: deployment for deployment in deployments})
        self._history: deque[WatchResponse] = deque(maxlen=history_events)
        self._max_watchers = max_watchers
        self._num_watchers = 0
        self._changed = asyncio.Event()
        self._is_closed = False
        self._listeners: list[Callable[[MeshView], None]] = []

    @property
    def view(self) -> MeshView:
        """The mesh after the last event."""
        return self._view

    @property
    def revision(self) -> int:
        """Number of the last event."""
        return self._revision

    @property
    def num_watchers(self) -> int:
        """Watchers that are subscribed now."""
        return self._num_watchers

    def publish(self, event: WatchResponse) -> None:
        """Make `event`, one without revision and epoch, the next one. The log owns it from now on."""
        self._revision += 1
        event.revision, event.epoch = self._revision, self._epoch
        self._view = self._view.with_event(event)
        self._history.append(event)
        self._wake()
        for listener in self._listeners:
            listener(self._view)

    def on_change(self, listener: Callable[[MeshView], None]) -> None:
        """Call `listener` with the new view after each event."""
        self._listeners.append(listener)

    def next_after(self, revision: int, epoch: str) -> WatchResponse | None:
        """What a watcher who has seen `revision` of `epoch` must see next; None when it has seen everything."""
        behind = self._revision - revision
        if epoch != self._epoch or revision < 1 or behind < 0 or behind > len(self._history):
            return WatchResponse(revision=self._revision, epoch=self._epoch, snapshot=self._view.snapshot())
        return self._history[-behind] if behind else None

    async def subscribe(self, after_revision: int, epoch: str) -> AsyncGenerator[WatchResponse, None]:
        """Everything after `after_revision`, without end. Raises Overloaded, and Unavailable when the log closes."""
        if self._num_watchers >= self._max_watchers:
            raise Overloaded(f"the registry has {self._num_watchers} watchers, its limit; try again later")
        self._num_watchers += 1
        try:
            while True:
                changed = self._changed
                if self._is_closed:
                    raise Unavailable("the registry is stopping; watch again")
                message = self.next_after(after_revision, epoch)
                if message is None:
                    await changed.wait()
                    continue
                yield message
                after_revision, epoch = message.revision, message.epoch
        finally:
            self._num_watchers -= 1

    def close(self) -> None:
        """End all subscriptions, so that a draining server need not wait for them."""
        self._is_closed = True
        self._wake()

    def _wake(self) -> None:
        # A fresh event for the next wait: nobody can miss a change between looking and waiting.
        self._changed.set()
        self._changed = asyncio.Event()
