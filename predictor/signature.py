"""Does a request fit the model? Names, datatypes, ranks, dimensions and batch sizes, checked before anything runs.

Knows tensors and metadata; how a tensor is read from the wire is `mesh.tensors`'.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mesh.errors import InvalidInput
from mesh.tensors import Tensor
from predictor.runtimes.base import Arrays, ModelMetadata, TensorSpec


def check_inputs(metadata: ModelMetadata, tensors: Mapping[str, Tensor]) -> Arrays:
    """The inputs as a runtime takes them; raises InvalidInput that names the input, what it has and what is wanted."""
    specs = {spec.name: spec for spec in metadata.inputs}
    unknown = next((name for name in tensors if name not in specs), None)
    if unknown is not None:
        raise InvalidInput(f"the model has no input '{unknown}'; it has {_names(metadata.inputs)}", field="inputs")
    missing = next((spec.name for spec in metadata.inputs if not spec.optional and spec.name not in tensors), None)
    if missing is not None:
        raise InvalidInput(f"input '{missing}' is missing", field="inputs")
    for name, tensor in tensors.items():
        _check_tensor(specs[name], tensor)
    if metadata.max_batch_size > 0:
        _check_batch(metadata.max_batch_size, tensors)
    return {name: tensor.array for name, tensor in tensors.items()}


def wanted_outputs(metadata: ModelMetadata, requested: Iterable[str]) -> tuple[TensorSpec, ...]:
    """The outputs that were asked for, in that order, each once; all of them when none was named."""
    specs = {spec.name: spec for spec in metadata.outputs}
    names = list(dict.fromkeys(requested))
    unknown = next((name for name in names if name not in specs), None)
    if unknown is not None:
        raise InvalidInput(f"the model has no output '{unknown}'; it has {_names(metadata.outputs)}", field="outputs")
    return tuple(specs[name] for name in names) or metadata.outputs


def batch_size(metadata: ModelMetadata, inputs: Arrays) -> int:
    """Inferences in a request: its first dimension where that is the batch, else 1."""
    if metadata.max_batch_size == 0:
        return 1
    return len(next(iter(inputs.values())))


def _check_tensor(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input '{spec.name}' has datatype {tensor.datatype}; the model takes {spec.datatype}", field="datatype"
        )
    shape = tensor.array.shape
    fits = len(shape) == len(spec.shape) and all(
        wanted in (-1, given) for wanted, given in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input '{spec.name}' has shape {list(shape)}; the model takes {list(spec.shape)}", field="shape"
        )


def _check_batch(max_batch_size: int, tensors: Mapping[str, Tensor]) -> None:
    sizes = {name: len(tensor.array) for name, tensor in tensors.items()}
    for name, size in sizes.items():
        if size > max_batch_size:
            raise InvalidInput(
                f"input '{name}' has a batch of {size}; the model takes at most {max_batch_size}", field="shape"
            )
    if len(set(sizes.values())) > 1:
        raise InvalidInput(f"the inputs have batches of different sizes: {sizes}", field="shape")


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs)
