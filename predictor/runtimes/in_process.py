"""A runtime whose model computes in this process: in threads of its own, behind a bound.

What differs from library to library is an `OpenModel` and how it is opened. Knows no library.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from mesh.errors import InvalidInput
from mesh.logs import get_logger
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.dtypes import DTYPES
from predictor.runtimes.options import read_options

log = get_logger(__name__)


class OpenModel(Protocol):
    """A model in memory. `predict` is called in a thread of the pool, never for a batch of nothing."""

    @property
    def metadata(self) -> ModelMetadata: ...

    @property
    def memory_bytes(self) -> int: ...

    def predict(self, inputs: Arrays) -> Arrays:
        """All outputs. Raises InvalidInput for what the model does not take, and CorruptArtifact for its own fault."""
        ...


@dataclass(frozen=True, slots=True)
class ComputeOptions:
    """max_batch_size: rows in one request. num_threads: that compute one. max_pending: requests that run or wait."""

    max_batch_size: int = 4096
    num_threads: int = 1
    max_pending: int = 256

    def __post_init__(self) -> None:
        check_range(self, "max_batch_size", 1, 1 << 20)
        check_range(self, "num_threads", 1, 64)
        check_range(self, "max_pending", 1, 1 << 16)


def check_range(options: object, name: str, low: int, high: int) -> None:
    """Raise InvalidInput unless option `name` is `low`..`high`."""
    if not low <= (value := getattr(options, name)) <= high:
        raise InvalidInput(f"option '{name}' is {value}; it must be {low} to {high}", field=name)


class InProcessRuntime(ABC):
    """Implements base.Runtime; a library's runtime adds `_open`, and `options_class` if it has options of its own."""

    options_class: ClassVar[type[Any]] = ComputeOptions  # a dataclass with `max_pending`
    # Several threads may each run a request, where the library itself computes one with a single thread.
    requests_at_once: ClassVar[bool] = False

    def __init__(self) -> None:
        self._model: OpenModel | None = None
        self._pool: ComputePool | None = None

    @property
    def metadata(self) -> ModelMetadata:
        return self._loaded().metadata

    @property
    def memory_bytes(self) -> int:
        return self._loaded().memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = read_options(artifact.options, self.options_class)
        num_threads = options.num_threads if self.requests_at_once else 1
        self._pool = ComputePool(f"model '{artifact.name}'", num_threads=num_threads, max_pending=options.max_pending)
        progress("load", 0, 1)
        self._model = await self._open(artifact, options, self._pool)
        progress("load", 1, 1)

    async def warm(self) -> None:
        """A row of zeros. A model that does not take one is ready all the same."""
        metadata = self._loaded().metadata
        try:
            await self.infer({spec.name: blank(spec) for spec in metadata.inputs})
        except InvalidInput as error:
            log.info("model_not_warmed", platform=metadata.platform, reason=error.message)

    async def infer(self, inputs: Arrays) -> Arrays:
        model, pool = self._loaded(), self._pool
        assert pool is not None, "load() comes first"
        if model.metadata.max_batch_size > 0 and any(len(array) == 0 for array in inputs.values()):
            return {spec.name: _empty(spec) for spec in model.metadata.outputs}
        return await pool.run(lambda: model.predict(inputs))

    async def unload(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._model = None

    @abstractmethod
    async def _open(self, artifact: ModelArtifact, options: Any, pool: ComputePool) -> OpenModel:
        """The model of `artifact`, ready; raises as base.Runtime.load does. `options` is an `options_class`.

        What takes time runs in `pool`.
        """

    def _loaded(self) -> OpenModel:
        assert self._model is not None, "load() comes first"
        return self._model


def blank(spec: TensorSpec) -> NDArray[Any]:
    """One row of zeros or empty texts; every dimension of any size is 1."""
    array = np.zeros([abs(size) for size in spec.shape], dtype=DTYPES[spec.datatype])
    if spec.datatype == "BYTES":
        array[...] = b""
    return array


def _empty(spec: TensorSpec) -> NDArray[Any]:
    return np.empty([0, *(max(size, 0) for size in spec.shape[1:])], dtype=DTYPES[spec.datatype])


def as_bytes(values: Iterable[Any]) -> NDArray[Any]:
    """[n] texts, or what str() makes of other values, as BYTES elements."""
    encoded = [value if isinstance(value, bytes) else str(value).encode() for value in values]
    array = np.empty(len(encoded), dtype=object)
    array[:] = encoded
    return array
