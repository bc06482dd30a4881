"""From a model's specification to a model that answers: fetch, check, load, warm. Progress goes to the log.

Between fetching and loading it asks for room in memory; whether and when there is some is not known here.

The log events `model_progress` (model, stage, done, total) are for people and for the supervisor, which shows bars.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mesh import plugins
from mesh.errors import Unavailable
from mesh.logs import LogSettings, get_logger
from mesh.storage import FetchProgress, fetch
from mesh.storage.disk import sha256_of
from predictor.batching import Batcher
from predictor.batching_options import BatchingOptions, split_options
from predictor.runtimes.base import DecoupledRuntime, ModelArtifact, ModelMetadata, OnHealth, Runtime
from predictor.signature import Signature
from predictor.statistics import ModelStatistics

log = get_logger(__name__)

_PROGRESS_INTERVAL_S = 0.25

# Awaited once, before anything is loaded, with the bytes that the artifact takes on disk; may raise MeshError.
MakeRoom = Callable[[int], Awaitable[None]]


async def room_enough(_size_bytes: int) -> None:
    """A MakeRoom that grants everything."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model as it is deployed. sha256: 64 hex digits, or None when it is not promised."""

    name: str
    model_format: str
    storage_uri: str
    version: str = "1"
    sha256: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model that answers. digest: SHA-256 of its artifact, 64 hex digits. batching: how its requests are joined.

    signature: what requests are checked against. batcher: the way of tensor requests to the runtime. decoupled: the
    runtime, where it can answer one request with several.
    """

    spec: ModelSpec
    digest: str
    runtime: Runtime
    statistics: ModelStatistics
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    signature: Signature = field(init=False)
    batcher: Batcher = field(init=False)
    decoupled: DecoupledRuntime | None = field(init=False)

    def __post_init__(self) -> None:
        def set_once(name: str, value: object) -> None:
            object.__setattr__(self, name, value)  # frozen for all others

        signature = Signature(self.runtime.metadata)
        set_once("signature", signature)
        set_once("batcher", Batcher(self.spec.name, self.runtime, signature, self.statistics, self.batching))
        set_once("decoupled", self.runtime if isinstance(self.runtime, DecoupledRuntime) else None)

    @property
    def metadata(self) -> ModelMetadata:
        return self.signature.metadata

    async def unload(self) -> None:
        """Give all memory back. What waits for the model still is refused."""
        await self.batcher.close()
        await self.runtime.unload()


class ModelLoader:
    """`runtimes`: model_format → "module:Class". `logs`: for the processes that they start.

    may_run_code: as in ModelArtifact.
    """

    def __init__(
        self,
        cache_dir: Path,
        runtimes: Mapping[str, str],
        logs: LogSettings | None = None,
        *,
        may_run_code: bool = False,
    ) -> None:
        self._cache_dir = cache_dir
        self._runtimes = runtimes
        self._logs = logs or LogSettings()
        self._may_run_code = may_run_code

    async def load(self, spec: ModelSpec, on_health: OnHealth, make_room: MakeRoom = room_enough) -> LoadedModel:
        """Raises the MeshError of whatever fails; then nothing of the model is left in memory."""
        batching, options = split_options(spec.options)
        # Importing a library can take seconds: not on the event loop.
        runtime = await asyncio.to_thread(self._make_runtime, spec.model_format)
        progress = ProgressLog(spec.name)

        def fetched(event: FetchProgress) -> None:
            progress(event.stage, event.done_bytes, event.total_bytes)

        path = await fetch(spec.storage_uri, sha256=spec.sha256, cache_dir=self._cache_dir, progress=fetched)
        digest = spec.sha256
        if digest is None:
            digest = await asyncio.to_thread(sha256_of, path, lambda _: None)
        await make_room(await asyncio.to_thread(artifact_bytes, path))
        try:
            artifact = ModelArtifact(
                spec.name,
                spec.version,
                path,
                digest,
                options,
                self._logs,
                cache_dir=self._cache_dir,
                may_run_code=self._may_run_code,
            )
            await runtime.load(artifact, progress, on_health)
            progress("warm", 0, 1)
            await runtime.warm()
            progress("warm", 1, 1)
        except BaseException:
            await runtime.unload()
            raise
        return LoadedModel(spec, digest, runtime, ModelStatistics(), batching)

    def _make_runtime(self, model_format: str) -> Runtime:
        try:
            runtime: Runtime = plugins.load(self._runtimes, model_format, "model format")()
        except ImportError as error:
            raise Unavailable(
                f"model format '{model_format}' needs the package '{error.name}', which is not installed; "
                "install meshserve[predictor]"
            ) from error
        except OSError as error:  # a package is there, and a library of the system that it needs is not
            raise Unavailable(f"model format '{model_format}' cannot be served on this machine: {error}") from error
        return runtime


class ProgressLog:
    """Logs progress of one model: each stage's start and end, and no more than four lines a second between."""

    def __init__(self, model: str, now: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._now = now
        self._stage = ""
        self._logged_at = 0.0

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        now = self._now()
        if stage == self._stage and done != total and now - self._logged_at < _PROGRESS_INTERVAL_S:
            return
        self._stage, self._logged_at = stage, now
        log.info("model_progress", model=self._model, stage=stage, done=done, total=total)


def artifact_bytes(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())
