"""The port behind which every kind of model runs, and the plain values that cross it.

A runtime gets an artifact on local disk and answers arrays with arrays. It does not know deployments, versions in
service, or the wire. The shape is that of KServe's and MLServer's model classes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from mesh.logs import LogSettings

# Arrays by tensor name; the dtype follows from the tensor's datatype (see mesh.tensors.DATATYPES).
Arrays = Mapping[str, NDArray[Any]]

# (stage, done, total): total is None while it is not known. Called on the event loop.
Progress = Callable[[str, int, int | None], None]

# (is_healthy, reason): a loaded model stopped answering, or answers again. Called on the event loop.
OnHealth = Callable[[bool, str], None]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. `shape` may hold -1 for a dimension of any size; the first may be the batch."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a client must know of a model.

    platform: framework and format, for example "sklearn_skops".
    max_batch_size: largest first dimension; 0 means that the first dimension is not a batch.
    is_decoupled: one request may get several answers (`DecoupledRuntime`).
    parameters: free texts for the model's configuration, for example JSON lists of names.
    """

    platform: str
    backend: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    is_decoupled: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelArtifact:
    """A model on local disk: a file or a folder at `path`, whose SHA-256 is `digest` (64 hex digits).

    options: the deployment's settings of the runtime, by name; unknown ones are an error.
    logs: how a process that the runtime starts is to log.
    cache_dir: where the runtime may keep what it makes anew when it is gone; None leaves the place to it.
    may_run_code: the operator trusts the model's own code, be it Python or what a pickle runs.
    """

    name: str
    version: str
    path: Path
    digest: str
    options: Mapping[str, str] = field(default_factory=dict)
    logs: LogSettings = field(default_factory=LogSettings)
    cache_dir: Path | None = None
    may_run_code: bool = False


@runtime_checkable
class Runtime(Protocol):
    """One loaded model. `load` is called once and first; `unload` last, also after a failed load."""

    @property
    def metadata(self) -> ModelMetadata:
        """Valid once `load` has returned."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What the loaded model takes of memory, roughly, in bytes: budgets count with it. Valid once loaded."""
        ...

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        """Make the model ready. Raises CorruptArtifact, InvalidInput for an option, PermissionDenied for code that the
        operator does not trust, or Unavailable.

        A model that runs elsewhere and may be lost reports so through `on_health`, after `load` has returned.
        """
        ...

    async def warm(self) -> None:
        """Run what would make the first request slow."""
        ...

    async def infer(self, inputs: Arrays) -> Arrays:
        """Compute all outputs. Inputs are read-only, fit the metadata, and hold every input that is not optional."""
        ...

    async def unload(self) -> None:
        """Give all memory back. No `infer` is running."""
        ...


@runtime_checkable
class DecoupledRuntime(Runtime, Protocol):
    """A runtime that can answer one request with several."""

    def infer_stream(self, inputs: Arrays) -> AsyncGenerator[Arrays, None]:
        """As `infer`, in as many answers as the model gives. Closing the generator stops the computation."""
        ...
