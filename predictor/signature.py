"""Does a request fit the model? Names, datatypes, ranks, dimensions and batch sizes, checked before anything runs.

Knows tensors and metadata; how a tensor is read from the wire is `mesh.tensors`'. What does not change between requests
is looked up once, when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping

from mesh.errors import InvalidInput
from mesh.tensors import Tensor
from predictor.runtimes.base import Arrays, ModelMetadata, TensorSpec


class Signature:
    """What one model takes and gives."""

    def __init__(self, metadata: ModelMetadata) -> None:
        self.metadata = metadata
        self._inputs = {spec.name: spec for spec in metadata.inputs}
        self._outputs = {spec.name: spec for spec in metadata.outputs}
        self._required = tuple(spec.name for spec in metadata.inputs if not spec.optional)
        self._max_batch_size = metadata.max_batch_size
        # All requests that fit are alike, but for their rows, when there is nothing that could differ.
        self._is_uniform = len(self._required) == len(metadata.inputs) and all(
            -1 not in spec.shape[1:] for spec in metadata.inputs
        )

    @property
    def has_rows(self) -> bool:
        """Whether requests can be joined: the first dimension of every input and output is a batch of any size."""
        specs = (*self.metadata.inputs, *self.metadata.outputs)
        return self._max_batch_size > 1 and all(spec.shape[:1] == (-1,) for spec in specs)

    def check_inputs(self, tensors: Mapping[str, Tensor]) -> Arrays:
        """The inputs as a runtime takes them; raises InvalidInput that names the input, what it has and what fits."""
        for name, tensor in tensors.items():
            spec = self._inputs.get(name)
            if spec is None:
                raise InvalidInput(
                    f"the model has no input '{name}'; it has {_names(self.metadata.inputs)}", field="inputs"
                )
            _check_tensor(spec, tensor)
        for name in self._required:
            if name not in tensors:
                raise InvalidInput(f"input '{name}' is missing", field="inputs")
        if not tensors and self._inputs:
            raise InvalidInput(
                f"the request has no inputs; the model has {_names(self.metadata.inputs)}", field="inputs"
            )
        if self._max_batch_size > 0:
            _check_batch(self._max_batch_size, tensors)
        return {name: tensor.array for name, tensor in tensors.items()}

    def wanted_outputs(self, requested: Iterable[str]) -> tuple[TensorSpec, ...]:
        """The outputs that were asked for, in that order, each once; all of them when none was named."""
        specs: dict[str, TensorSpec] = {}
        for name in requested:
            spec = self._outputs.get(name)
            if spec is None:
                raise InvalidInput(
                    f"the model has no output '{name}'; it has {_names(self.metadata.outputs)}", field="outputs"
                )
            specs[name] = spec
        return tuple(specs.values()) or self.metadata.outputs

    def num_rows(self, inputs: Arrays) -> int:
        """Inferences in a request: its first dimension where that is the batch, else 1."""
        if self._max_batch_size == 0:
            return 1
        for array in inputs.values():
            return len(array)
        return 1

    def joins_with(self, inputs: Arrays) -> Hashable:
        """Requests of which this is equal can be joined along their rows: the same inputs, of the same trailing shapes.

        Their datatypes are the model's, and of a request's parameters none reaches a model.
        """
        if self._is_uniform:
            return ()
        return tuple((name, inputs[name].shape[1:]) for name in self._inputs if name in inputs)


def _check_tensor(spec: TensorSpec, tensor: Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInput(
            f"input '{spec.name}' has datatype {tensor.datatype}; the model takes {spec.datatype}", field="datatype"
        )
    shape = tensor.array.shape
    if shape == spec.shape:
        return
    fits = len(shape) == len(spec.shape) and all(
        wanted in (-1, given) for wanted, given in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidInput(
            f"input '{spec.name}' has shape {list(shape)}; the model takes {list(spec.shape)}", field="shape"
        )


def _check_batch(max_batch_size: int, tensors: Mapping[str, Tensor]) -> None:
    rows = -1
    for name, tensor in tensors.items():
        size = len(tensor.array)
        if size > max_batch_size:
            raise InvalidInput(
                f"input '{name}' has a batch of {size}; the model takes at most {max_batch_size}", field="shape"
            )
        if rows not in (-1, size):
            sizes = {name: len(tensor.array) for name, tensor in tensors.items()}
            raise InvalidInput(f"the inputs have batches of different sizes: {sizes}", field="shape")
        rows = size


def _names(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"'{spec.name}'" for spec in specs)
