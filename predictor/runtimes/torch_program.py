"""PyTorch models as exported programs: `.pt2` files of `torch.export.save`, which need none of the model's own code.

A file is checked before torch sees it (`torch_archive.py`), since torch's loader trusts it. What goes in and comes out
is read from the program's signature (`torch_signature.py`).
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch._export.verifier import SpecViolationError
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from mesh.errors import CorruptArtifact, InvalidInput, Unavailable
from mesh.logs import get_logger
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.options import read_options
from predictor.runtimes.torch_archive import write_clean
from predictor.runtimes.torch_signature import (
    ProgramSignature,
    check_keeps_nothing,
    names_of,
    read_signature,
    writes_in_place,
)

log = get_logger(__name__)
T = TypeVar("T")

MODEL_FILE = "model.pt2"

_RANGES = {"max_batch_size": 1 << 20, "num_threads": 64, "intra_op_num_threads": 256, "max_pending": 1 << 16}

# What a file whose parts do not fit together makes torch's loader raise.
_MALFORMED = (
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    AssertionError,
    IndexError,
    EOFError,
    OverflowError,
    SpecViolationError,
)
# How torch begins the sentence when inputs do not fit what a program asserts of them.
_DOES_NOT_FIT = ("Expected input at", "Runtime assertion failed", "Guard failed", "index out of range")

# Inputs are read-only views of the request, and a program that writes gets copies of them.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


@dataclass(frozen=True, slots=True)
class TorchOptions:
    """Options of a deployment.

    device: "cpu", "cuda" or "cuda:N". output_names: a JSON list, in the order of the program's results.
    max_batch_size: rows in one request, where the program has a batch; its own upper bound holds, too.
    num_threads, max_pending: of the compute pool. intra_op_num_threads: with which torch computes one request.
    """

    device: str = "cpu"
    output_names: str = ""
    max_batch_size: int = 4096
    num_threads: int = 1
    intra_op_num_threads: int = 1
    max_pending: int = 256

    def __post_init__(self) -> None:
        for name, high in _RANGES.items():
            if not 1 <= getattr(self, name) <= high:
                raise InvalidInput(f"option '{name}' is {getattr(self, name)}; it must be 1 to {high}", field=name)
        kind, _, index = self.device.partition(":")
        if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
            raise InvalidInput(f"option 'device' is '{self.device}'; it must be cpu, cuda or cuda:N", field="device")
        names_of(self.output_names)


@dataclass(frozen=True, slots=True)
class _Program:
    """A program that is ready to run. in_spec: how it wants its flat arguments nested."""

    signature: ProgramSignature
    module: Callable[..., Any]  # torch has no types for what a module returns
    in_spec: Any  # a TreeSpec
    device: torch.device
    copies_inputs: bool
    memory_bytes: int


class TorchRuntime:
    """One exported program. Inputs have the names of the arguments of the model's `forward`."""

    def __init__(self) -> None:
        self._program: _Program | None = None
        self._metadata: ModelMetadata | None = None
        self._pool: ComputePool | None = None
        self._num_threads = 1
        self._name = ""

    @property
    def metadata(self) -> ModelMetadata:
        assert self._metadata is not None, "load() comes first"
        return self._metadata

    @property
    def memory_bytes(self) -> int:
        return self._loaded().memory_bytes

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        options = read_options(artifact.options, TorchOptions)
        self._num_threads, self._name = options.intra_op_num_threads, artifact.name
        self._pool = ComputePool(
            f"model '{artifact.name}'", num_threads=options.num_threads, max_pending=options.max_pending
        )
        progress("load", 0, 1)
        self._program = await self._compute(lambda: _load(artifact, options))
        self._metadata = _metadata(self._program.signature, options.max_batch_size)
        progress("load", 1, 1)

    async def warm(self) -> None:
        program = self._loaded()
        shapes = program.signature.small_shapes()
        if shapes is None:
            return
        dtypes = {tensor.name: _numpy_dtype(tensor.dtype) for tensor in program.signature.inputs}
        try:
            await self.infer({name: np.zeros(shape, dtypes[name]) for name, shape in shapes.items()})
        except (RuntimeError, InvalidInput) as error:  # zeros may be no input that the model takes
            log.info("model_not_warmed", model=self._name, reason=type(error).__name__)

    async def infer(self, inputs: Arrays) -> Arrays:
        program = self._loaded()
        sizes = program.signature.sizes_of(inputs)
        if sizes.get(program.signature.batch_symbol) == 0:
            shapes = program.signature.output_shapes(sizes)
            if shapes is not None:
                return {
                    output.name: np.empty(shapes[output.name], _numpy_dtype(output.dtype))
                    for output in program.signature.outputs.values()
                }
        return await self._compute(lambda: _run(program, inputs))

    async def unload(self) -> None:
        if self._pool is not None:
            self._pool.close()
        self._program = None

    async def _compute(self, function: Callable[[], T]) -> T:
        assert self._pool is not None, "load() comes first"

        def with_threads() -> T:
            # OpenMP keeps the number for each thread that computes.
            if torch.get_num_threads() != self._num_threads:
                torch.set_num_threads(self._num_threads)
            with torch.inference_mode():
                return function()

        return await self._pool.run(with_threads)

    def _loaded(self) -> _Program:
        assert self._program is not None, "load() comes first"
        return self._program


def _load(artifact: ModelArtifact, options: TorchOptions) -> _Program:
    path = artifact.path / MODEL_FILE if artifact.path.is_dir() else artifact.path
    if not path.is_file():
        raise CorruptArtifact(f"the model folder has no {MODEL_FILE}")
    device = torch.device(options.device)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unavailable(f"option 'device' is '{options.device}'; this machine has {torch.cuda.device_count()} GPUs")
    program = _read(path, may_run_code=artifact.may_run_code)
    signature = read_signature(program, names_of(options.output_names))
    check_keeps_nothing(program)
    copies_inputs = writes_in_place(program)
    if device.type != "cpu":
        program = move_to_device_pass(program, device)
    return _Program(
        signature,
        program.module(),
        program.call_spec.in_spec,
        device,
        copies_inputs,
        sum(tensor.nbytes for tensor in (*program.state_dict.values(), *program.constants.values())),
    )


def _read(path: Path, *, may_run_code: bool) -> ExportedProgram:
    with tempfile.TemporaryDirectory(prefix="meshserve-torch-") as folder:
        clean = write_clean(path, Path(folder) / "clean.pt2", may_run_code=may_run_code)
        try:
            # Loading computes nothing, but marks what it makes: as inference tensors, weights could not be moved.
            with torch.inference_mode(False):
                return torch.export.load(clean)
        except _MALFORMED as error:
            raise CorruptArtifact(
                f"{path.name} is no program that torch {torch.__version__} can load ({type(error).__name__})"
            ) from error


def _run(program: _Program, inputs: Arrays) -> Arrays:
    tensors = {
        tensor.name: _to_tensor(program, inputs[tensor.name], tensor.dtype) for tensor in program.signature.inputs
    }
    flat = [constant if name is None else tensors[name] for name, constant in program.signature.arguments]
    args, kwargs = pytree.tree_unflatten(flat, program.in_spec)
    try:
        results = pytree.tree_leaves(program.module(*args, **kwargs), is_leaf=lambda value: value is None)
    except (RuntimeError, IndexError, AssertionError) as error:
        sentence = str(error).partition("\n")[0]
        if isinstance(error, AssertionError | IndexError) or sentence.startswith(_DOES_NOT_FIT):
            raise InvalidInput(f"the inputs do not fit what the program asserts of them: {sentence[:300]}") from error
        raise
    return {output.name: _to_array(results[at]) for at, output in program.signature.outputs.items()}


def _to_tensor(program: _Program, array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    tensor = torch.from_numpy(array).to(program.device, dtype)
    # The memory of a request is not the program's to write to.
    return tensor.clone() if program.copies_inputs and tensor.data_ptr() == array.ctypes.data else tensor


def _to_array(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    tensor = tensor.detach().cpu()
    array: np.ndarray[Any, Any] = (tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy()
    return array


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    dtype_of: np.dtype[Any] = _to_array(torch.empty(0, dtype=dtype)).dtype
    return dtype_of


def _metadata(signature: ProgramSignature, max_batch_size: int) -> ModelMetadata:
    inputs, outputs = signature.specs()
    batch = signature.batch_symbol
    ranges: Mapping[Any, tuple[int, int | None]] = signature.ranges
    high = ranges[batch][1] if batch in ranges else None
    return ModelMetadata(
        platform="torch_export",
        backend="torch",
        inputs=inputs,
        outputs=outputs,
        max_batch_size=0 if batch is None else min(max_batch_size, high or max_batch_size),
    )
