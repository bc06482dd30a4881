"""ONNX models, computed by ONNX Runtime on the CPU. Inputs, outputs, datatypes and shapes are the model's own.

What is in the graph is ONNX Runtime's business. What the tensors mean to a client is in docs/runtimes.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from mesh.errors import CorruptArtifact, InvalidInput, MeshError, Overloaded
from mesh.logs import get_logger
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.runtimes.in_process import ComputeOptions, InProcessRuntime, as_bytes, blank, check_range
from predictor.runtimes.model_file import find_model_file
from predictor.runtimes.onnx_graph import check_external_data
from predictor.runtimes.table_metadata import TableMetadata, read_table_metadata
from predictor.runtimes.trial import try_loading

log = get_logger(__name__)

SUFFIXES = (".onnx",)
DEFAULT_MAX_BATCH_SIZE = 4096

# ONNX Runtime's name of a tensor's type → (datatype, number in onnx.TensorProto.DataType).
_TYPES: Mapping[str, tuple[str, int]] = {
    "tensor(float)": ("FP32", 1),
    "tensor(uint8)": ("UINT8", 2),
    "tensor(int8)": ("INT8", 3),
    "tensor(uint16)": ("UINT16", 4),
    "tensor(int16)": ("INT16", 5),
    "tensor(int32)": ("INT32", 6),
    "tensor(int64)": ("INT64", 7),
    "tensor(string)": ("BYTES", 8),
    "tensor(bool)": ("BOOL", 9),
    "tensor(float16)": ("FP16", 10),
    "tensor(double)": ("FP64", 11),
    "tensor(uint32)": ("UINT32", 12),
    "tensor(uint64)": ("UINT64", 13),
    "tensor(bfloat16)": ("BF16", 16),
}
_BF16_NUMBER = _TYPES["tensor(bfloat16)"][1]

_LEVELS = {
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# ONNX Runtime's exceptions have no class of their own in common.
_ERRORS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoModel,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class OnnxOptions(ComputeOptions):
    """max_batch_size: as for all, and 0 when the first dimension is no batch; -1 goes by the model's own dimensions.

    num_threads: within an operator; num_inter_op_threads: for operators at the same time. graph_optimizations: all,
    extended, basic or none.
    """

    max_batch_size: int = -1
    num_inter_op_threads: int = 1
    graph_optimizations: str = "all"

    def __post_init__(self) -> None:
        check_range(self, "max_batch_size", -1, 1 << 20)
        check_range(self, "num_threads", 1, 64)
        check_range(self, "num_inter_op_threads", 1, 64)
        check_range(self, "max_pending", 1, 1 << 16)
        if self.graph_optimizations not in _LEVELS:
            raise InvalidInput(
                f"option 'graph_optimizations' is '{self.graph_optimizations}'; it must be one of {', '.join(_LEVELS)}",
                field="graph_optimizations",
            )


class OnnxRuntime(InProcessRuntime):
    """Inputs and outputs by the model's own names. BYTES are UTF-8, since an ONNX string is text."""

    options_class = OnnxOptions

    async def _open(self, artifact: ModelArtifact, options: OnnxOptions, pool: ComputePool) -> SessionModel:
        memory_bytes = await try_loading("predictor.runtimes.onnx:try_session", artifact.path)
        facts = read_table_metadata(artifact.path)
        return await pool.run(
            lambda: SessionModel(read_session(artifact.path, options), options, facts, max(memory_bytes, 1))
        )


class SessionModel:
    """Implements in_process.OpenModel."""

    def __init__(
        self, session: onnxruntime.InferenceSession, options: OnnxOptions, facts: TableMetadata, memory_bytes: int
    ) -> None:
        self.memory_bytes = memory_bytes
        # ONNX Runtime makes no OrtValue of texts: a model that takes them gets arrays, and answers with copies.
        takes_texts = any(one.type == "tensor(string)" for one in session.get_inputs())
        self._run = session.run if takes_texts else session.run_with_ort_values
        self._dims = {one.name: tuple(one.shape) for one in session.get_inputs()}
        self._output_names = [one.name for one in session.get_outputs()]
        inputs, outputs = ([_spec(one) for one in side] for side in (session.get_inputs(), session.get_outputs()))
        if takes_texts and any(spec.datatype == "BF16" for spec in outputs):
            raise CorruptArtifact("the model takes texts and answers in BF16; ONNX Runtime does not do both for Python")
        shapes = [one.shape for one in (*session.get_inputs(), *session.get_outputs())]
        self.metadata = ModelMetadata(
            platform="onnxruntime_onnx",
            backend="onnxruntime",
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            max_batch_size=_max_batch_size(options.max_batch_size, shapes),
            parameters=facts.parameters(),
        )

    def predict(self, inputs: Arrays) -> Arrays:
        self._check_dims(inputs)
        feed = {spec.name: _to_ort(spec, inputs[spec.name]) for spec in self.metadata.inputs}
        try:
            values = self._run(self._output_names, feed)
        except _ERRORS as error:
            raise _cannot_compute(error) from None
        outputs = {spec.name: _from_ort(spec, value) for spec, value in zip(self.metadata.outputs, values, strict=True)}
        self._check_rows(inputs, outputs)
        return outputs

    def _check_dims(self, inputs: Arrays) -> None:
        """A dimension that the model gives one name has one size, in all inputs."""
        sizes: dict[str, tuple[int, str]] = {}
        for name, dims in self._dims.items():
            for dim, size in zip(dims, inputs[name].shape, strict=True):
                if not isinstance(dim, str):
                    continue
                known_size, known_name = sizes.setdefault(dim, (size, name))
                if known_size != size:
                    raise InvalidInput(
                        f"dimension '{dim}' is {known_size} in input '{known_name}' and {size} in input '{name}'",
                        field="shape",
                    )

    def _check_rows(self, inputs: Arrays, outputs: Arrays) -> None:
        """Requests are joined and parted along the batch: an output that does not keep it would mix them up."""
        if self.metadata.max_batch_size == 0:
            return
        num_rows = len(next(iter(inputs.values())))
        for name, array in outputs.items():
            if array.ndim == 0 or len(array) != num_rows:
                raise CorruptArtifact(
                    f"output '{name}' has shape {list(array.shape)} for a batch of {num_rows}; deploy the model with "
                    "option max_batch_size 0"
                )


def read_session(path: Path, options: OnnxOptions) -> onnxruntime.InferenceSession:
    """The model at `path`, a file or a folder. Raises CorruptArtifact."""
    file = find_model_file(path, SUFFIXES)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.num_threads
    settings.inter_op_num_threads = options.num_inter_op_threads
    if options.num_inter_op_threads > 1:
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    settings.graph_optimization_level = _LEVELS[options.graph_optimizations]
    settings.log_severity_level = 4
    # A thread that waits for work must not burn a core: other models are on this machine.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # ONNX Runtime's own format is for files that one trusts.
    settings.add_session_config_entry("session.load_model_format", "ONNX")
    try:
        session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
        for one in (*session.get_inputs(), *session.get_outputs()):
            _ = one.name, one.type, one.shape  # decoded only when they are asked for
        return session
    except _ERRORS as error:
        raise CorruptArtifact(_cannot_load(file, str(error))) from None


def try_session(path: Path) -> SessionModel:
    """What the trial does: check the files that the model names, load it, run it once. Raises CorruptArtifact."""
    file = find_model_file(path, SUFFIXES)
    if not file.is_file():
        raise CorruptArtifact(f"there is no file {file.name}")
    check_external_data(file, path if path.is_dir() else None)
    options = OnnxOptions()
    model = SessionModel(read_session(path, options), options, TableMetadata(), 0)
    try:
        model.predict({spec.name: blank(spec) for spec in model.metadata.inputs})
    except Overloaded as error:
        raise CorruptArtifact(f"{file.name} wants more memory for one row than a file of its size may") from error
    except (InvalidInput, CorruptArtifact):
        pass  # not every model takes a row of zeros
    return model


def _spec(declared: onnxruntime.NodeArg) -> TensorSpec:
    """Raises CorruptArtifact for what is no tensor of the protocol."""
    if declared.type.startswith(("seq(", "map(", "optional(")):
        raise CorruptArtifact(
            f"'{declared.name}' is {declared.type}, not a tensor; export the model without, for example with "
            "convert_sklearn(…, options={'zipmap': False})"
        )
    if declared.type not in _TYPES:
        raise CorruptArtifact(f"'{declared.name}' is {declared.type}; served are {', '.join(_TYPES)}")
    shape = tuple(dim if isinstance(dim, int) and dim >= 0 else -1 for dim in declared.shape)
    return TensorSpec(declared.name, _TYPES[declared.type][0], shape)


def _max_batch_size(wanted: int, shapes: Sequence[Sequence[int | str | None]]) -> int:
    """The batch is the first dimension of everything, when that is open everywhere and has everywhere the same name.

    Raises InvalidInput when a batch is wanted and a first dimension is not open.
    """
    firsts = [shape[0] if shape else 0 for shape in shapes]
    is_open = not any(isinstance(dim, int) for dim in firsts)
    if wanted > 0 and not is_open:
        raise InvalidInput(
            f"option 'max_batch_size' is {wanted}; it must be 0, since not every first dimension of the model is open",
            field="max_batch_size",
        )
    if wanted >= 0:
        return wanted
    return DEFAULT_MAX_BATCH_SIZE if is_open and len(set(firsts)) == 1 else 0


def _to_ort(spec: TensorSpec, array: NDArray[Any]) -> onnxruntime.OrtValue | NDArray[Any]:
    """Numbers are taken in place; the value keeps the array."""
    if spec.datatype == "BYTES":
        return _decoded(spec.name, array)
    if spec.datatype == "BF16":  # widened to float32 where it was read: its lower half is zero
        upper_halves = (np.ascontiguousarray(array).view(np.uint32) >> 16).astype(np.uint16)
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(upper_halves, _BF16_NUMBER)
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _decoded(name: str, array: NDArray[Any]) -> NDArray[Any]:
    texts = np.empty(array.shape, dtype=object)
    try:
        texts.reshape(-1)[:] = [element.decode() for element in array.reshape(-1)]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}' has an element that is no UTF-8, as ONNX wants it", field=name) from None
    return texts


def _from_ort(spec: TensorSpec, value: onnxruntime.OrtValue | NDArray[Any]) -> NDArray[Any]:
    """Numbers are left where they are; the array keeps the value."""
    if spec.datatype == "BYTES":
        texts = value if isinstance(value, np.ndarray) else value.numpy()
        return as_bytes(texts.reshape(-1)).reshape(texts.shape)
    if isinstance(value, np.ndarray):
        return value
    if 0 in value.shape():
        return np.empty(value.shape(), dtype=blank(spec).dtype)
    if spec.datatype == "BF16":
        return (np.asarray(_Memory(value, "<u2")).astype(np.uint32) << 16).view(np.float32)
    return np.asarray(_Memory(value, blank(spec).dtype.str))


class _Memory:
    """A tensor of ONNX Runtime as numpy's array interface has it: numpy keeps this object as long as the array."""

    def __init__(self, value: onnxruntime.OrtValue, typestr: str) -> None:
        self._value = value
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(value.shape()),
            "typestr": typestr,
            "data": (value.data_ptr(), True),  # True: read-only
        }


def _cannot_load(file: Path, message: str) -> str:
    if "is not a registered function/op" in message or "No Op registered for" in message:
        operator = re.search(r"(?:No Op registered for |error: )([\w.:]{1,60})", message)
        return (
            f"{file.name} has an operator that ONNX Runtime lacks ({operator[1] if operator else 'custom'}); custom "
            "operators are not served"
        )
    return f"{file.name} is truncated or no model for ONNX Runtime ({_kind(message)})"


def _cannot_compute(error: Exception) -> MeshError:
    """A loaded model fails because of what it was given: an index out of range, sizes that do not match."""
    message = str(error)
    log.warning("onnx_run_failed", error=message[:2000])
    if "allocate memory" in message or "bad_alloc" in message or "bad allocation" in message:
        return Overloaded("the model wants more memory for these inputs than there is")
    found = re.search(r"running (\w{1,60}) node\. Name:'([^']{0,100})'", message)
    where = f": its node {found[1]} {found[2]}".rstrip() + " fails" if found else ""
    return InvalidInput(f"the model cannot compute with these inputs{where}", field="inputs")


def _kind(message: str) -> str:
    """`INVALID_GRAPH` of "[ONNXRuntimeError] : 10 : INVALID_GRAPH : …", which goes on with paths."""
    found = re.match(r"\[ONNXRuntimeError\] : \d+ : (\w+)", message)
    return found[1] if found else "no further reason"
