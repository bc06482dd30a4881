"""Runtimes for tests of what surrounds them: an identity model, a decoupled one, and ones that fail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator

import numpy as np

from mesh import tensors
from predictor.loader import LoadedModel, MakeRoom, ModelSpec, room_enough
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.statistics import ModelStatistics

DATATYPES = tuple(tensors.DATATYPES)


def tensor_specs(suffix: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(f"{name.lower()}_{suffix}", name, (-1, 2), optional=True) for name in DATATYPES)


class IdentityRuntime:
    """Answers each input `<datatype>_in` as output `<datatype>_out`; absent ones as zeros.

    An FP32 input whose first element is 13 fails as a bug would. `gate`, when set, is waited for in `infer`.
    """

    is_decoupled = False
    memory_bytes = 1000

    def __init__(self) -> None:
        self.gate: asyncio.Event | None = None
        self.is_unloaded = False
        self.num_waiting = 0  # calls of `infer` that came to the gate

    @property
    def metadata(self) -> ModelMetadata:
        return ModelMetadata(
            platform="test_identity",
            backend="identity",
            inputs=tensor_specs("in"),
            outputs=tensor_specs("out"),
            max_batch_size=8,
            is_decoupled=self.is_decoupled,
        )

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        progress("load", 1, 1)

    async def warm(self) -> None:
        pass

    async def infer(self, inputs: Arrays) -> Arrays:
        if self.gate is not None:
            self.num_waiting += 1
            await self.gate.wait()
        if "fp32_in" in inputs and inputs["fp32_in"].size and inputs["fp32_in"].flat[0] == 13:
            raise RuntimeError("a bug in /secret/path")
        num_rows = len(next(iter(inputs.values())))
        outputs = {f"{name.lower()}_out": np.zeros((num_rows, 2), tensors.DATATYPES[name].dtype) for name in DATATYPES}
        outputs["bytes_out"][:] = b""
        return outputs | {name.replace("_in", "_out"): array for name, array in inputs.items()}

    async def unload(self) -> None:
        self.is_unloaded = True


class CountdownRuntime(IdentityRuntime):
    """Decoupled: an input `int64_in` [[n, …]] is answered n times, each with a row less."""

    is_decoupled = True

    async def infer_stream(self, inputs: Arrays) -> AsyncGenerator[Arrays, None]:
        for _ in range(int(inputs["int64_in"].flat[0])):
            yield await self.infer(inputs)


class FakeLoader:
    """Loads fakes by model format. `failures` by model name are raised; `gates` by model name are waited for.

    disk_bytes: what an artifact takes on disk. memory_bytes, by model name: what it takes once loaded, else the same.
    """

    disk_bytes = 1000

    def __init__(self, **formats: type[IdentityRuntime]) -> None:
        self.formats = formats
        self.failures: dict[str, BaseException] = {}
        self.gates: dict[str, asyncio.Event] = {}
        self.runtimes: dict[str, IdentityRuntime] = {}
        self.on_health: dict[str, OnHealth] = {}
        self.memory_bytes: dict[str, int] = {}
        self.num_loads = 0
        self.loads: list[str] = []  # name:version of each load that got room, in order
        self.max_loading: Counter[str] = Counter()  # most loads at the same time, by name:version
        self.most_bytes = 0  # in memory at the same time, those that load included
        self._loading: Counter[str] = Counter()
        self._loaded: list[IdentityRuntime] = []

    @property
    def bytes_in_memory(self) -> int:
        """Of all that was loaded, or begins to load, and is not unloaded."""
        return sum(runtime.memory_bytes for runtime in self._loaded if not runtime.is_unloaded)

    async def load(self, spec: ModelSpec, on_health: OnHealth, make_room: MakeRoom = room_enough) -> LoadedModel:
        await make_room(self.disk_bytes)
        self.num_loads += 1
        key = f"{spec.name}:{spec.version}"
        self.loads.append(key)
        runtime = self.formats.get(spec.model_format, IdentityRuntime)()
        runtime.memory_bytes = self.memory_bytes.get(spec.name, self.disk_bytes)
        self._loaded.append(runtime)
        self._loading[key] += 1
        self.max_loading[key] = max(self.max_loading[key], self._loading[key])
        self.most_bytes = max(self.most_bytes, self.bytes_in_memory)
        try:
            if spec.name in self.gates:
                await self.gates[spec.name].wait()
            if spec.name in self.failures:
                raise self.failures[spec.name]
        except BaseException:
            await runtime.unload()
            raise
        finally:
            self._loading[key] -= 1
        self.runtimes[spec.name] = runtime
        self.on_health[spec.name] = on_health
        return LoadedModel(spec, "0" * 64, runtime, ModelStatistics())


def spec(name: str, model_format: str = "identity", version: str = "1") -> ModelSpec:
    return ModelSpec(name=name, model_format=model_format, storage_uri="file:///nowhere", version=version)
