"""A user's model class: found in its folder, asked what it declares, and held to it.

Runs in the model's own process and imports nothing of the mesh. Every mistake of the class's author is a ClassMistake
whose sentence says what was found and what to write instead.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from predictor.runtimes.dtypes import DTYPES
from predictor.runtimes.python.frames import NamedArray

DEFAULT_MODULE = "model"
OPTIONAL = "optional"
MAX_RANK = 32
_EXAMPLE = '{"rows": ("FP32", [-1, 4])}'


class ClassMistake(Exception):
    """The class is not what a model must be, or its answer is not what it declares."""


@dataclass(frozen=True, slots=True)
class Declared:
    """One declared input or output, as base.TensorSpec."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    is_optional: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a class says of itself. has_infer, has_stream: whether it has `infer`, `infer_stream`."""

    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    max_batch_size: int
    has_infer: bool
    has_stream: bool


def find_class(folder: Path, model_class: str = "") -> type:
    """The class that `model_class` names ("module:Class"), or the one of model.py that has infer or infer_stream.

    Raises ClassMistake, and whatever the module raises while it is imported.
    """
    module_name, _, class_name = model_class.partition(":")
    module = _import(folder, module_name or DEFAULT_MODULE)
    if class_name:
        found = getattr(module, class_name, None)
        if not inspect.isclass(found):
            raise ClassMistake(f"{module_name}.py has no class '{class_name}'; it has {_names(_classes(module))}")
        return found
    candidates = [kind for kind in _classes(module) if _method(kind, "infer") or _method(kind, "infer_stream")]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise ClassMistake(
            f"{module.__name__}.py has no class with a method 'infer' or 'infer_stream'; it has "
            f"{_names(_classes(module))}"
        )
    raise ClassMistake(
        f"{module.__name__}.py has {len(candidates)} classes that could be the model: {_names(candidates)}; "
        f"name one by the option model_class, for example '{module.__name__}:{candidates[0].__name__}'"
    )


def read_declaration(model: Any, max_batch_size: int = 0) -> Declaration:
    """What `model`, after its `load`, declares; `max_batch_size` above 0 stands in for the class's own."""
    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    size = max_batch_size or getattr(model, "max_batch_size", 0)
    if type(size) is not int or not 0 <= size <= 1 << 20:
        raise ClassMistake(f"'max_batch_size' is {size!r}; it must be a whole number from 0 to {1 << 20}")
    if size > 0:
        for declared in (*inputs, *outputs):
            if declared.shape[:1] != (-1,):
                raise ClassMistake(
                    f"'{declared.name}' has the shape {list(declared.shape)}; with a max_batch_size of {size} "
                    "every shape begins with -1, the batch"
                )
    return Declaration(inputs, outputs, size, _method(model, "infer"), _method(model, "infer_stream"))


def check_answer(declaration: Declaration, answer: object, batch_size: int | None) -> list[NamedArray]:
    """An answer of the class as arrays to send; raises ClassMistake. batch_size: what its outputs must have, if any."""
    if not isinstance(answer, Mapping):
        raise ClassMistake(
            f"an answer is a dict of arrays by output name; the model returned {_kind(answer)}"
            f"{' (it has no return statement)' if answer is None else ''}"
        )
    names = [declared.name for declared in declaration.outputs]
    if missing := [name for name in names if name not in answer]:
        raise ClassMistake(f"the answer lacks output '{missing[0]}'; it has {sorted(map(str, answer))}")
    if unknown := [name for name in answer if name not in names]:
        raise ClassMistake(f"the answer has '{unknown[0]}', which is not declared; outputs are {names}")
    return [
        NamedArray(declared.name, declared.datatype, _checked(declared, answer[declared.name], batch_size))
        for declared in declaration.outputs
    ]


def _checked(declared: Declared, array: object, batch_size: int | None) -> np.ndarray[Any, Any]:
    where = f"output '{declared.name}'"
    if not isinstance(array, np.ndarray):
        raise ClassMistake(f"{where} is {_kind(array)}; it must be a numpy array")
    wanted = DTYPES[declared.datatype]
    if array.dtype != wanted:
        raise ClassMistake(
            f"{where} has dtype {array.dtype}; it is declared {declared.datatype}, so return it as {_spelled(wanted)}"
        )
    fits = array.ndim == len(declared.shape) and all(
        want in (-1, have) for want, have in zip(declared.shape, array.shape, strict=True)
    )
    if not fits:
        raise ClassMistake(f"{where} has shape {list(array.shape)}; it is declared {list(declared.shape)}")
    if batch_size is not None and len(array) != batch_size:
        raise ClassMistake(f"{where} has {len(array)} rows for a batch of {batch_size}; each row gets its own answer")
    if wanted.hasobject:
        strange = next((element for element in array.flat if not isinstance(element, bytes)), None)
        if strange is not None:
            raise ClassMistake(f"{where} holds {_kind(strange)}; elements of BYTES are bytes")
    return array


def _import(folder: Path, name: str) -> ModuleType:
    path = folder / f"{name}.py"
    if not name.isidentifier():
        raise ClassMistake(f"option model_class names the module '{name}', which is no name; write 'module:Class'")
    if not path.is_file():
        raise ClassMistake(f"the model folder has no {path.name}")
    sys.path.insert(0, str(folder))  # for the modules that lie beside it
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _classes(module: ModuleType) -> list[type]:
    """Those that the module itself defines."""
    return [kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]


def _tensors(model: Any, attribute: str) -> tuple[Declared, ...]:
    declared = getattr(model, attribute, None)
    if not isinstance(declared, Mapping) or not declared:
        raise ClassMistake(
            f"'{attribute}' must be a dict of tensors by name, for example {attribute} = {_EXAMPLE}; "
            f"it is {'missing' if declared is None else repr(declared)[:100]}"
        )
    return tuple(_tensor(attribute, name, entry) for name, entry in declared.items())


def _tensor(attribute: str, name: object, entry: object) -> Declared:
    where = f"'{attribute}': tensor {name!r}"
    if not isinstance(name, str) or not name:
        raise ClassMistake(f"{where} has no name; names are texts")
    if not isinstance(entry, tuple | list) or len(entry) not in (2, 3) or list(entry[2:]) not in ([], [OPTIONAL]):
        raise ClassMistake(f"{where} is {entry!r:.100}; write it as in {_EXAMPLE}, a third entry may be '{OPTIONAL}'")
    datatype, shape = entry[0], entry[1]
    if datatype not in DTYPES:
        raise ClassMistake(f"{where} has datatype {datatype!r}; valid are {', '.join(DTYPES)}")
    if (
        not isinstance(shape, tuple | list)
        or len(shape) > MAX_RANK
        or not all(type(dim) is int and (dim == -1 or dim > 0) for dim in shape)
    ):
        raise ClassMistake(
            f"{where} has shape {shape!r:.100}; write a list of whole numbers, with -1 where any size goes"
        )
    is_optional = len(entry) == 3
    if is_optional and attribute == "outputs":
        raise ClassMistake(f"{where} is optional; every output is in every answer")
    return Declared(name, datatype, tuple(shape), is_optional)


def _method(model: Any, name: str) -> bool:
    return callable(getattr(model, name, None))


def _names(kinds: list[type]) -> str:
    return ", ".join(kind.__name__ for kind in kinds) or "none"


def _kind(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"


def _spelled(dtype: np.dtype[Any]) -> str:
    return "an array of bytes with dtype object" if dtype.hasobject else f"np.{dtype.name.replace('bool', 'bool_')}"
