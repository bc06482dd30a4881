"""What a follower of the registry's Watch stream holds: the view, and how far in which history it has come.

Pure: no stream, no clock, no file. It keeps this promise: within an epoch the view is the registry's at `revision`, no
event missing and none taken twice, plus replicas in doubt (mesh/view.py). What contradicts something newer is refused:
a snapshot of the same epoch and an earlier revision is the past, and what was learned since would be lost with it.
"""

from __future__ import annotations

from enum import Enum

from mesh.v1.registry_pb2 import WatchResponse
from mesh.view import MeshView


class Taken(Enum):
    """What became of a message. A stream that brought a GAP or something STALE must be opened anew."""

    ACCEPTED = "accepted"
    GAP = "gap"
    STALE = "stale"


class WatchState:
    """Begins with nothing known; `restore` takes what an earlier process saved."""

    def __init__(self) -> None:
        self._view = MeshView()
        self._epoch = ""
        self._revision = 0
        self._needs_snapshot = True

    @property
    def view(self) -> MeshView:
        """What is known now; a new object after each change."""
        return self._view

    @property
    def revision(self) -> int:
        """The last revision that was taken in, of the epoch that was heard last."""
        return self._revision

    def restore(self, saved: WatchResponse) -> None:
        """Begin with what `saved()` of an earlier process gave."""
        self._view = MeshView().with_snapshot(saved.snapshot)
        self._epoch, self._revision = saved.epoch, saved.revision

    def saved(self) -> WatchResponse:
        """What is known, for `restore`."""
        # Doubt is not saved: under no epoch's name everything is in doubt after the next snapshot, as it should be.
        epoch = "" if self._view.in_doubt else self._epoch
        return WatchResponse(epoch=epoch, revision=self._revision, snapshot=self._view.snapshot())

    def position(self) -> tuple[int, str]:
        """Revision and epoch to go on after; (0, "") asks for a snapshot."""
        # Replicas in doubt need one, with which their grace starts.
        if self._needs_snapshot or self._view.in_doubt:
            return 0, ""
        return self._revision, self._epoch

    def take(self, response: WatchResponse) -> Taken:
        """Take one message of the stream in."""
        is_same_epoch = response.epoch == self._epoch
        if response.HasField("snapshot"):
            if is_same_epoch and response.revision < self._revision:
                self._needs_snapshot = True
                return Taken.STALE
            doubted = self._view.in_doubt if is_same_epoch else frozenset(self._view.replicas)
            self._view = self._view.with_snapshot(response.snapshot, doubted)
            self._epoch, self._revision = response.epoch, response.revision
            self._needs_snapshot = False
        elif self._needs_snapshot or not is_same_epoch or response.revision > self._revision + 1:
            self._needs_snapshot = True
            return Taken.GAP
        elif response.revision == self._revision + 1:
            self._revision = response.revision
            self._view = self._view.with_event(response)
        return Taken.ACCEPTED

    def forget_position(self) -> None:
        """Take the next snapshot as another history's, whatever it says of itself: what it lacks is in doubt then."""
        self._epoch, self._revision, self._needs_snapshot = "", 0, True

    def give_up_doubted(self) -> None:
        """Take the replicas in doubt out of the view."""
        self._view = self._view.without_replicas(self._view.in_doubt)
