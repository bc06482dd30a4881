"""Values that a person types after `--data`, as the tensors of a request: JSON text, `@file`, or `-` for stdin."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cli.failure import Failure

_EXAMPLE = "write it like --data '[[5.1, 3.5, 1.4, 0.2]]'"


def read_data(text: str) -> Any:
    """The JSON value in `text`, in the file `@path`, or in stdin for '-'. Raises Failure."""
    if text == "-":
        source, content = "stdin", sys.stdin.read()
    elif text.startswith("@"):
        source, content = text[1:], _content_of(Path(text[1:]))
    else:
        source, content = "--data", text
    try:
        return json.loads(content)
    except ValueError as error:
        raise Failure(f"{source} is not JSON: {error}", _EXAMPLE) from None


def rows_of(value: Any) -> list[Any]:
    """`value` as a list of rows; one row alone may stand without its outer brackets. Raises Failure."""
    if not isinstance(value, list) or not value:
        raise Failure("--data must be a list of rows", _EXAMPLE)
    return value if isinstance(value[0], list) else [value]


def input_tensors(value: Any, inputs: list[Any]) -> list[dict[str, Any]]:
    """`value` as OIP JSON tensors for the model's `inputs` (from its metadata); an object names several inputs.

    The datatype is the model's; the shape is that of the nested lists. Raises Failure.
    """
    by_name = {str(each["name"]): each for each in inputs}
    if not isinstance(value, dict):
        # A language model's other inputs are optional.
        if len(by_name) != 1 and "text_input" not in by_name:
            names = ", ".join(by_name)
            raise Failure(f"the model has the inputs {names}", "name them like --data '{\"input\": [[1, 2]]}'")
        value = {"text_input" if len(by_name) > 1 else next(iter(by_name)): value}
    unknown = sorted(set(value) - set(by_name))
    if unknown:
        raise Failure(f"the model has no input '{unknown[0]}'; it has {', '.join(by_name)}")
    return [_tensor(name, str(by_name[name]["datatype"]), data) for name, data in value.items()]


def shape_of(data: Any) -> list[int]:
    """The shape of nested lists, judged by the first element of each; the gateway checks the others."""
    shape: list[int] = []
    while isinstance(data, list):
        shape.append(len(data))
        data = data[0] if data else None
    return shape


def flat(data: Any) -> list[Any]:
    """The elements of nested lists, row by row."""
    if not isinstance(data, list):
        return [data]
    return [element for part in data for element in flat(part)]


def _tensor(name: str, datatype: str, data: Any) -> dict[str, Any]:
    data = data if isinstance(data, list) else [data]
    return {"name": name, "datatype": datatype, "shape": shape_of(data), "data": data}


def _content_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Failure(f"cannot read '{path}': {reason}") from None
