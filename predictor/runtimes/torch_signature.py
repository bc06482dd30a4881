"""What an exported program takes and gives: names, datatypes and shapes, read from its signature.

Sizes that may vary are symbols with a range; others may be expressions of them (`2*s0`). A first dimension that is the
same lone symbol in all inputs and outputs is the batch. Nothing is computed here but sizes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from mesh.errors import CorruptArtifact, InvalidInput
from predictor.runtimes.base import Arrays, TensorSpec

DATATYPES: Mapping[torch.dtype, str] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.uint16: "UINT16",
    torch.uint32: "UINT32",
    torch.uint64: "UINT64",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.bfloat16: "BF16",
    torch.float32: "FP32",
    torch.float64: "FP64",
}

# A lower bound up to this is torch's own assumption, which holds for smaller sizes, too.
_ASSUMED_LOWER_BOUND = 2


@dataclass(frozen=True, slots=True)
class Multiple:
    """The size `factor` times `symbol`, as most sizes are that are no numbers: sympy itself takes long to ask."""

    symbol: Any  # a sympy.Symbol; sympy has no types
    factor: int


@dataclass(frozen=True, slots=True)
class Symbolic:
    """A tensor of the program. sizes: whole numbers, Multiples, and sympy expressions for all others."""

    name: str
    dtype: torch.dtype
    sizes: tuple[Any, ...]  # sympy has no types


@dataclass(frozen=True, slots=True)
class ProgramSignature:
    """inputs: those that a request brings. arguments: for each of the program's flat arguments the input's name, or a
    constant. outputs: by position among the program's flat results, without those that are constants.
    ranges: by symbol, the smallest and the largest size; None is no limit. batch_symbol: None when there is no batch.
    """

    inputs: tuple[Symbolic, ...]
    arguments: tuple[tuple[str | None, object], ...]
    outputs: Mapping[int, Symbolic]
    ranges: Mapping[Any, tuple[int, int | None]]
    batch_symbol: Any = None

    def specs(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        """Inputs and outputs as metadata has them."""
        return tuple(map(_spec, self.inputs)), tuple(map(_spec, self.outputs.values()))

    def sizes_of(self, arrays: Arrays) -> dict[Any, int]:
        """Each symbol's size in `arrays`. Raises InvalidInput for sizes out of range or at odds with each other."""
        found: dict[Any, int] = {}
        told_by: dict[Any, str] = {}
        for name, axis, size, have in self._dimensions(arrays):
            if not isinstance(size, Multiple):
                continue
            symbol, factor = size.symbol, size.factor
            where = f"dimension {axis} of input '{name}'"
            if have % factor:
                raise InvalidInput(f"{where} is {have}; it must be a multiple of {factor}", field="shape")
            value = have // factor
            if found.setdefault(symbol, value) != value:
                raise InvalidInput(
                    f"{where} is {have}; {told_by[symbol]} makes it {found[symbol] * factor}", field="shape"
                )
            told_by.setdefault(symbol, where)
            self._check_range(symbol, value, factor, where)
        for name, axis, size, have in self._dimensions(arrays):
            wanted = _value(size, found)
            if wanted is not None and wanted != have:
                raise InvalidInput(f"dimension {axis} of input '{name}' is {have}; it must be {wanted}", field="shape")
        return found

    def _dimensions(self, arrays: Arrays) -> Iterator[tuple[str, int, Any, int]]:
        for tensor in self.inputs:
            for axis, (size, have) in enumerate(zip(tensor.sizes, arrays[tensor.name].shape, strict=True)):
                yield tensor.name, axis, size, have

    def _check_range(self, symbol: Any, value: int, factor: int, where: str) -> None:
        low, high = self.ranges.get(symbol, (0, None))
        # Nothing of a batch is nothing: the caller answers that without the program.
        if value < low and not (value == 0 and symbol == self.batch_symbol):
            raise InvalidInput(f"{where} is {value * factor}; it must be at least {low * factor}", field="shape")
        if high is not None and value > high:
            raise InvalidInput(f"{where} is {value * factor}; it may be at most {high * factor}", field="shape")

    def output_shapes(self, sizes: Mapping[Any, int]) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the outputs by name for these sizes of symbols; None where they depend on more."""
        shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self.outputs.values():
            values = [_value(size, sizes) for size in tensor.sizes]
            shapes[tensor.name] = tuple(value for value in values if value is not None)
            if len(shapes[tensor.name]) < len(values):
                return None
        return shapes

    def small_shapes(self) -> dict[str, tuple[int, ...]] | None:
        """Shapes of the inputs with every symbol as small as it may be (2, or its lower bound), for a first run."""
        sizes = {symbol: max(low, min(2, high or 2)) for symbol, (low, high) in self.ranges.items()}
        shapes = {tensor.name: [_value(size, sizes) for size in tensor.sizes] for tensor in self.inputs}
        if any(None in shape for shape in shapes.values()):
            return None
        return {name: tuple(int(size or 0) for size in shape) for name, shape in shapes.items()}


def read_signature(program: ExportedProgram, output_names: Sequence[str] = ()) -> ProgramSignature:
    """`output_names` stand in for those of the program's results. Raises CorruptArtifact for what is no tensor."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    inputs: list[Symbolic] = []
    arguments: list[tuple[str | None, object]] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        if isinstance(spec.arg, ConstantArgument):
            arguments.append((None, spec.arg.value))
        else:
            inputs.append(_symbolic("input", spec.arg.name, spec.arg, values))
            arguments.append((spec.arg.name, None))
    results = [spec.arg for spec in program.graph_signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
    names = _output_names(program, len(results))
    tensors = [(at, arg) for at, arg in enumerate(results) if not isinstance(arg, ConstantArgument)]
    if not inputs or not tensors:
        raise CorruptArtifact("a model has one input tensor at least, and one output tensor")
    if output_names and len(output_names) != len(tensors):
        raise InvalidInput(
            f"option 'output_names' has {len(output_names)} names; the program has {len(tensors)} outputs",
            field="output_names",
        )
    named = zip(output_names or [names[at] for at, _ in tensors], tensors, strict=True)
    outputs = {at: _symbolic("output", name, arg, values) for name, (at, arg) in named}
    if len({output.name for output in outputs.values()}) < len(outputs):
        raise InvalidInput("two outputs have the same name; give them others by output_names", field="output_names")
    batch = _batch_symbol([*inputs, *outputs.values()])
    return ProgramSignature(tuple(inputs), tuple(arguments), outputs, _ranges(program), batch)


def check_keeps_nothing(program: ExportedProgram) -> None:
    """Raises CorruptArtifact for a program that changes its weights as it runs: each answer would change the next."""
    signature = program.graph_signature
    own = {*signature.inputs_to_buffers, *signature.inputs_to_parameters}
    for node in _calls(program):
        written = {argument.name for argument in _written(node)} & own
        is_training = str(node.target) == "aten.batch_norm.default" and True in node.args[5:6]
        if written or is_training or signature.buffers_to_mutate:
            raise CorruptArtifact(
                "the program changes its own buffers when it runs: export the model after model.eval()"
            )


def writes_in_place(program: ExportedProgram) -> bool:
    """Whether any operator of the program writes to what it is given, which may then be an input."""
    return any(_is_mutable(node) for node in _calls(program))


def _calls(program: ExportedProgram) -> Iterator[Node]:
    for module in program.graph_module.modules():
        if isinstance(module, GraphModule):
            yield from (node for node in module.graph.nodes if node.op == "call_function")


def _is_mutable(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _written(node: Node) -> Iterator[Node]:
    if not _is_mutable(node):
        return
    for declared, given in zip(node.target._schema.arguments, node.args, strict=False):  # type: ignore[union-attr]
        if declared.alias_info is not None and declared.alias_info.is_write and isinstance(given, Node):
            yield given


def _symbolic(kind: str, name: str, argument: object, values: Mapping[str, Any]) -> Symbolic:
    value = values.get(argument.name) if isinstance(argument, TensorArgument) else None
    if not isinstance(value, torch.Tensor):
        raise CorruptArtifact(f"{kind} '{name}' of the program is no tensor; a model takes and gives tensors")
    if value.dtype not in DATATYPES:
        raise CorruptArtifact(f"{kind} '{name}' of the program has dtype {value.dtype}, which no datatype carries")
    sizes = tuple(_size(size.node.expr) if isinstance(size, torch.SymInt) else size for size in value.shape)
    return Symbolic(name, value.dtype, sizes)


def _batch_symbol(tensors: Sequence[Symbolic]) -> Any:
    firsts = {tensor.sizes[0] if tensor.sizes else 0 for tensor in tensors}
    first = firsts.pop()
    return first.symbol if not firsts and isinstance(first, Multiple) and first.factor == 1 else None


def _spec(tensor: Symbolic) -> TensorSpec:
    return TensorSpec(
        tensor.name,
        DATATYPES[tensor.dtype],
        tuple(size if isinstance(size, int) else -1 for size in tensor.sizes),
    )


def _ranges(program: ExportedProgram) -> dict[Any, tuple[int, int | None]]:
    ranges: dict[Any, tuple[int, int | None]] = {}
    for symbol, limits in program.range_constraints.items():
        low = int(limits.lower) if limits.lower.is_Integer else 0
        high = int(limits.upper) if limits.upper.is_Integer else None
        ranges[symbol] = (low if low > _ASSUMED_LOWER_BOUND else 0, high)
    return ranges


def _output_names(program: ExportedProgram, num_results: int) -> list[str]:
    """The keys that lead to each result, joined by _: `logits`, `hidden_0`; those of a tuple: output_0, output_1."""
    tree = program.call_spec.out_spec
    if tree is None or tree.num_leaves != num_results:
        return [f"output_{at}" for at in range(num_results)]
    placed, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(range(num_results), tree))
    names = []
    for path, _at in placed:
        keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
        name = re.sub(r"\W", "_", "_".join(keys), flags=re.ASCII)
        names.append(name if path and hasattr(path[0], "key") else "_".join(filter(None, ("output", name))))
    return names


def _size(expression: Any) -> Any:
    """3*s as a Multiple, and as it is what is no multiple of one symbol."""
    factor, symbol = expression.as_coeff_Mul()
    if isinstance(symbol, sympy.Symbol) and factor.is_Integer and factor > 0:
        return Multiple(symbol, int(factor))
    return expression


def _value(size: Any, sizes: Mapping[Any, int]) -> int | None:
    """The number that `size` is; None when some of its symbols are not known."""
    if isinstance(size, int):
        return size
    if isinstance(size, Multiple):
        return size.factor * sizes[size.symbol] if size.symbol in sizes else None
    value = size.xreplace({symbol: sympy.Integer(number) for symbol, number in sizes.items()})
    return int(value) if value.is_number and value.is_integer else None


def names_of(text: str) -> tuple[str, ...]:
    """The names of the option output_names: a JSON list of texts, or nothing."""
    try:
        names = json.loads(text) if text else []
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InvalidInput("option 'output_names' must be a JSON list of texts", field="output_names")
    return tuple(names)
