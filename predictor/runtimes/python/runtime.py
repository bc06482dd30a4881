"""Models that are a Python class of their author, with `load` and `infer`, in processes of their own with limits.

The class is code, and runs with the rights of this service: only when the operator says so. What the class must look
like is in `user_class.py`; how its processes are kept, in `pool.py`. The shape is that of Triton's Python backend and
of KServe's and MLServer's custom models.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from mesh.errors import CorruptArtifact, InvalidInput, PermissionDenied, Unsupported
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.options import read_options
from predictor.runtimes.python.frames import NamedArray
from predictor.runtimes.python.pool import PoolLimits, ProcessPool
from predictor.runtimes.python.process import ProcessSpec
from predictor.runtimes.python.worker import LOAD

_RANGES: Mapping[str, tuple[float, float]] = {
    "num_workers": (1, 64),
    "num_threads": (1, 256),
    "memory_limit_bytes": (0, 1 << 50),
    "timeout_s": (0.001, 86_400),
    "load_timeout_s": (0.1, 86_400),
    "max_batch_size": (0, 1 << 20),
    "max_pending": (1, 1 << 16),
    "restart_delay_s": (0, 3600),
    "max_restart_delay_s": (0, 86_400),
}


@dataclass(frozen=True, slots=True)
class PythonOptions:
    """Options of a deployment.

    model_class: "module:Class" in the folder; empty: the one model class of model.py.
    num_workers: processes, each with the model in it, that compute one request at a time.
    num_threads: of numerical libraries in each process. memory_limit_bytes: address space of each; 0 is no limit.
    timeout_s: for one answer; then the process is ended, and another one starts. load_timeout_s: for `load`.
    max_batch_size: rows in one request; 0: as the class says. max_pending: requests that run or wait.
    restart_delay_s, max_restart_delay_s: the first pause before a new process, which doubles, and the longest.
    environment: a JSON object of variables for the process, which gets none of the service's own.
    """

    model_class: str = ""
    num_workers: int = 1
    num_threads: int = 1
    memory_limit_bytes: int = 0
    timeout_s: float = 60.0
    load_timeout_s: float = 300.0
    max_batch_size: int = 0
    max_pending: int = 256
    restart_delay_s: float = 0.1
    max_restart_delay_s: float = 30.0
    environment: str = "{}"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(f"option '{name}' is {getattr(self, name)}; it must be {low} to {high}", field=name)
        self.variables()

    def variables(self) -> dict[str, str]:
        """The environment as a dict."""
        try:
            variables = json.loads(self.environment)
        except ValueError:
            variables = None
        if not isinstance(variables, dict) or not all(_is_variable(*item) for item in variables.items()):
            raise InvalidInput("option 'environment' must be a JSON object of texts by name", field="environment")
        return variables


class PythonRuntime:
    """One model class and its processes."""

    # Set when the class answers with streams, and only then: its presence makes this a base.DecoupledRuntime.
    infer_stream: Callable[[Arrays], AsyncGenerator[Arrays, None]]

    def __init__(self) -> None:
        self._pool: ProcessPool | None = None
        self._metadata: ModelMetadata | None = None
        self._datatypes: dict[str, str] = {}
        self._has_infer = False
        self._memory_bytes = 0

    @property
    def metadata(self) -> ModelMetadata:
        assert self._metadata is not None, "load() comes first"
        return self._metadata

    @property
    def memory_bytes(self) -> int:
        return self._memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = read_options(artifact.options, PythonOptions)
        if not artifact.may_run_code:
            raise PermissionDenied(
                f"model '{artifact.name}' is Python code, which this predictor does not run; an operator who trusts "
                "its author sets trust_model_code"
            )
        if not artifact.path.is_dir():
            raise CorruptArtifact("a Python model is a folder with model.py; the artifact is no folder")
        progress("load", 0, 1)
        pool = self._pool = ProcessPool(
            ProcessSpec(artifact.name, options.num_threads, options.memory_limit_bytes, options.variables()),
            {
                "do": LOAD,
                "folder": str(artifact.path.resolve()),
                "model_class": options.model_class,
                "max_batch_size": options.max_batch_size,
            },
            _limits(options),
            on_health,
        )
        ready = await pool.start()
        self._metadata = _metadata(ready)
        self._datatypes = {spec.name: spec.datatype for spec in self._metadata.inputs}
        self._has_infer = ready["has_infer"]
        self._memory_bytes = ready["memory_bytes"] * options.num_workers
        if ready["has_stream"]:
            self.infer_stream = self._infer_stream
        progress("load", 1, 1)

    async def warm(self) -> None:
        """What a class wants to do before its first request, it does in its `load`."""

    async def infer(self, inputs: Arrays) -> Arrays:
        if not self._has_infer:
            raise Unsupported("the model answers with a stream, and has no 'infer'; ask for it by ModelStreamInfer")
        return await self._loaded().infer(self._named(inputs))

    async def unload(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def _infer_stream(self, inputs: Arrays) -> AsyncGenerator[Arrays, None]:
        async with aclosing(self._loaded().stream(self._named(inputs))) as answers:
            async for answer in answers:
                yield answer

    def _named(self, inputs: Arrays) -> list[NamedArray]:
        return [NamedArray(name, self._datatypes[name], array) for name, array in inputs.items()]

    def _loaded(self) -> ProcessPool:
        assert self._pool is not None, "load() comes first"
        return self._pool


def _limits(options: PythonOptions) -> PoolLimits:
    return PoolLimits(
        num_workers=options.num_workers,
        max_pending=options.max_pending,
        timeout_s=options.timeout_s,
        load_timeout_s=options.load_timeout_s,
        restart_delay_s=options.restart_delay_s,
        max_restart_delay_s=options.max_restart_delay_s,
    )


def _metadata(ready: Mapping[str, Any]) -> ModelMetadata:
    return ModelMetadata(
        platform="python_class",
        backend="python",
        inputs=_specs(ready["inputs"]),
        outputs=_specs(ready["outputs"]),
        max_batch_size=ready["max_batch_size"],
        is_decoupled=ready["has_stream"],
    )


def _specs(declared: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, datatype, tuple(shape), optional) for name, datatype, shape, optional in declared)


def _is_variable(name: str, value: object) -> bool:
    return bool(name) and "=" not in name and "\0" not in name and isinstance(value, str) and "\0" not in value
