"""Keeps this process's view of the mesh: from one Watch stream to the registry, or from a file of static endpoints.

What is known outlives the registry:
- Nothing leaves the view because the registry is silent. The view is also written to `state_dir`, and a process that
  starts while the registry is away begins with it.
- A registry of the same epoch remembers: the stream resumes after the last revision seen, and what it says is true.
- A registry of another epoch has lost its leases. Replicas that are known here and missing from its snapshot may be
  alive and about to announce themselves again: they stay, in doubt, for `grace_s` (1.5 leases) of an unbroken stream.
  An announcement ends the doubt; a withdrawal, another replica at the same address, or the end of the grace ends the
  replica. When the stream breaks, the doubt waits, and the grace starts anew with the next snapshot.
- Deployments are durable in the registry: its snapshot of them is always taken whole.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf import json_format

from mesh.channel import open_channel
from mesh.endpoints_watch import LOOK_EVERY_S, EndpointsWatch
from mesh.logs import get_logger
from mesh.retry import Backoff
from mesh.v1.registry_pb2 import WatchRequest, WatchResponse
from mesh.v1.registry_pb2_grpc import RegistryServiceStub
from mesh.view import MeshView
from mesh.watch_state import Taken, WatchState

__all__ = ["Discovery", "MeshView"]

log = get_logger(__name__)

GRACE_S = 15.0
VIEW_FILE = "mesh-view.json"


class Discovery:
    """Owns the Watch stream and the file of the last known view. Use from one event loop only."""

    def __init__(
        self,
        *,
        registry: str | None,
        endpoints: Path | None,
        state_dir: Path,
        grace_s: float = GRACE_S,
        first_view_s: float = 2.0,
        open_channel: Callable[[str], grpc.aio.Channel] = open_channel,
    ) -> None:
        """registry: "host:port". endpoints: a file as in mesh/endpoints_file.py, read again when it changes; it wins
        over the registry.

        first_view_s: how long start() waits for the registry's first answer.
        """
        self._registry = registry
        self._endpoints = endpoints
        self._file = state_dir / VIEW_FILE
        self._grace_s = grace_s
        self._first_view_s = first_view_s
        self._open_channel = open_channel
        self._view = MeshView()
        self._state = WatchState()
        self._callbacks: list[Callable[[MeshView], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._grace: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None
        self._heard = asyncio.Event()
        self._unsaved = asyncio.Event()
        self._reachable: bool | None = None

    @property
    def view(self) -> MeshView:
        """What is known now; a new object after each change."""
        return self._view

    def on_change(self, callback: Callable[[MeshView], None]) -> None:
        """Call `callback` with the new view after each change, on the event loop. It must be quick."""
        self._callbacks.append(callback)

    async def start(self) -> None:
        """Return with the best view that can be had now: of the file, of the registry, or the last one known.

        Raises InvalidInput when the endpoints file is wrong. An absent registry is not an error.
        """
        if self._endpoints is not None:
            file = EndpointsWatch(self._endpoints)
            self._change(await asyncio.to_thread(file.read))
            self._tasks = [asyncio.create_task(self._keep_looking(file))]
        elif self._registry is not None:
            known = await asyncio.to_thread(_read_known, self._file)
            if known is not None:
                self._state.restore(known)
                self._follow_state()
                log.info("last_view_read", file=str(self._file), **self._counts())
            self._tasks = [
                asyncio.create_task(self._keep_watching(self._registry)),
                asyncio.create_task(self._keep_saving()),
            ]
            try:
                await asyncio.wait_for(self._heard.wait(), self._first_view_s)
            except TimeoutError:
                log.warning("registry_absent", registry=self._registry, **self._counts())
        else:
            log.warning("mesh_unknown", reason="neither a registry nor an endpoints file is set")

    async def close(self) -> None:
        """Stop watching. The view stays as it is."""
        self._end_grace()
        self._end_patience()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _keep_looking(self, file: EndpointsWatch) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                view = await asyncio.to_thread(file.look)
                if view is not None:
                    self._change(view)
            except Exception:
                # The top of a task: whatever is wrong with this file, the next one is read.
                log.exception("endpoints_look_failed")

    async def _keep_watching(self, registry: str) -> None:
        backoff = Backoff(first_s=0.1, limit_s=1.0)
        async with self._open_channel(registry) as channel:
            while True:
                try:
                    await self._watch(channel, backoff)
                except grpc.aio.AioRpcError as error:
                    self._lost(error.details() or error.code().name)
                except Exception:
                    # The top of a task: whatever went wrong, the process must not lose its eyes.
                    log.exception("watch_failed")
                self._end_grace()
                await asyncio.sleep(backoff.next_s())

    async def _watch(self, channel: grpc.aio.Channel, backoff: Backoff) -> None:
        revision, epoch = self._state.position()
        stream = RegistryServiceStub(channel).Watch(WatchRequest(after_revision=revision, epoch=epoch))
        try:
            async for response in stream:
                if not self._take(response):
                    return
                backoff.reset()
        finally:
            stream.cancel()

    def _take(self, response: WatchResponse) -> bool:
        """Take one message of the stream in; False when the stream is of no more use."""
        seen = self._state.revision
        taken = self._state.take(response)
        self._heard.set()
        if taken is Taken.GAP:
            log.warning("watch_gap", expected=seen + 1, revision=response.revision)
            return False
        if taken is Taken.STALE:
            self._refuse_past(response.revision)
            return False
        self._end_patience()
        self._follow_state()
        if response.HasField("snapshot"):
            self._begin_grace()
        if self._reachable is not True:
            self._reachable = True
            log.info("registry_watched", registry=self._registry, revision=response.revision, **self._counts())
        return True

    def _refuse_past(self, revision: int) -> None:
        if self._patience is None:
            known = self._state.revision
            log.warning("registry_is_behind", registry=self._registry, revision=revision, known=known)
            self._patience = asyncio.get_running_loop().call_later(self._grace_s, self._believe_past)

    def _believe_past(self) -> None:
        log.warning("registry_lost_its_past", registry=self._registry)
        self._patience = None
        self._state.forget_position()

    def _end_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _begin_grace(self) -> None:
        self._end_grace()
        if self._view.in_doubt:
            self._grace = asyncio.get_running_loop().call_later(self._grace_s, self._give_up_doubted)

    def _give_up_doubted(self) -> None:
        if self._view.in_doubt:
            log.info("replicas_given_up", replicas=sorted(self._view.in_doubt))
            self._state.give_up_doubted()
            self._follow_state()

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _lost(self, reason: str) -> None:
        # Who is silent does not insist on the past.
        self._end_patience()
        if self._reachable is not False:
            self._reachable = False
            log.warning("registry_unreachable", registry=self._registry, reason=reason, **self._counts())

    def _follow_state(self) -> None:
        if self._state.view is not self._view:
            self._change(self._state.view)

    def _change(self, view: MeshView) -> None:
        self._view = view
        self._unsaved.set()
        for callback in self._callbacks:
            callback(view)

    def _counts(self) -> dict[str, int]:
        return {"deployments": len(self._view.deployments), "replicas": len(self._view.replicas)}

    async def _keep_saving(self) -> None:
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            try:
                await asyncio.to_thread(_write_whole, self._file, json_format.MessageToJson(self._state.saved()))
            except OSError as error:
                log.warning("last_view_not_saved", file=str(self._file), error=error.strerror)


def _read_known(path: Path) -> WatchResponse | None:
    try:
        return json_format.Parse(path.read_text(encoding="utf-8"), WatchResponse())
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, json_format.ParseError) as error:
        log.warning("last_view_unreadable", file=str(path), error=str(error))
        return None


def _write_whole(path: Path, text: str) -> None:
    """Replace the file at `path`: after a crash it holds the old text or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
