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
from mesh.endpoints_file import read_endpoints
from mesh.logs import get_logger
from mesh.retry import Backoff
from mesh.v1.registry_pb2 import WatchRequest, WatchResponse
from mesh.v1.registry_pb2_grpc import RegistryServiceStub
from mesh.view import MeshView

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
        """registry: "host:port". endpoints: a file as in mesh/endpoints_file.py; it wins over the registry.

        first_view_s: how long start() waits for the registry's first answer.
        """
        self._registry = registry
        self._endpoints = endpoints
        self._file = state_dir / VIEW_FILE
        self._grace_s = grace_s
        self._first_view_s = first_view_s
        self._open_channel = open_channel
        self._view = MeshView()
        self._epoch = ""
        self._revision = 0
        self._callbacks: list[Callable[[MeshView], None]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._grace: asyncio.TimerHandle | None = None
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
            self._change(read_endpoints(self._endpoints))
        elif self._registry is not None:
            known = await asyncio.to_thread(_read_known, self._file)
            if known is not None:
                self._epoch = known.epoch
                self._change(MeshView().with_snapshot(known.snapshot))
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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

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
        # Replicas in doubt need a snapshot, with which their grace starts.
        resume = not self._view.in_doubt and self._heard.is_set()
        request = WatchRequest(after_revision=self._revision if resume else 0, epoch=self._epoch if resume else "")
        stream = RegistryServiceStub(channel).Watch(request)
        try:
            async for response in stream:
                if not self._accept(response):
                    log.warning("watch_gap", expected=self._revision + 1, revision=response.revision)
                    self._revision = 0
                    return
                backoff.reset()
        finally:
            stream.cancel()

    def _accept(self, response: WatchResponse) -> bool:
        """Take one message of the stream in; False when messages are missing before it."""
        if response.HasField("snapshot"):
            self._accept_snapshot(response)
        elif response.epoch != self._epoch or response.revision > self._revision + 1:
            return False
        elif response.revision == self._revision + 1:
            self._revision = response.revision
            self._change(self._view.with_event(response))
        self._heard.set()
        if self._reachable is not True:
            self._reachable = True
            log.info("registry_watched", registry=self._registry, revision=self._revision, **self._counts())
        return True

    def _accept_snapshot(self, response: WatchResponse) -> None:
        is_other_epoch = response.epoch != self._epoch
        doubted = frozenset(self._view.replicas) if is_other_epoch else self._view.in_doubt
        self._epoch, self._revision = response.epoch, response.revision
        self._change(self._view.with_snapshot(response.snapshot, doubted))
        self._end_grace()
        if self._view.in_doubt:
            self._grace = asyncio.get_running_loop().call_later(self._grace_s, self._give_up_doubted)

    def _give_up_doubted(self) -> None:
        if self._view.in_doubt:
            log.info("replicas_given_up", replicas=sorted(self._view.in_doubt))
            self._change(self._view.without_replicas(self._view.in_doubt))

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _lost(self, reason: str) -> None:
        if self._reachable is not False:
            self._reachable = False
            log.warning("registry_unreachable", registry=self._registry, reason=reason, **self._counts())

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
            record = WatchResponse(epoch=self._epoch, revision=self._revision, snapshot=self._view.snapshot())
            try:
                await asyncio.to_thread(_write_whole, self._file, json_format.MessageToJson(record))
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
