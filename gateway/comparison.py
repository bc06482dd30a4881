"""What a mirrored answer has in common with the one that the client got: for tensors and for texts.

Pure, and for a thread: the answers come as the bytes that they were. What is JSON-ready goes into the record as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any  # JSON

import numpy as np
from google.protobuf.message import DecodeError

from gateway.generation import Output, finish_reason_name
from mesh.errors import Internal, InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array, Tensor, decode_response
from mesh.v1 import language_model_pb2 as lm


@dataclass(frozen=True, slots=True)
class Comparison:
    """is_equal: nothing that was compared differs. outputs: one entry an output, JSON-ready."""

    is_equal: bool
    outputs: list[dict[str, Any]]


def compare_tensors(first: bytes, second: bytes) -> Comparison:
    """Of two ModelInferResponses, output by output. Raises Internal for what is none.

    Values are equal when they are the same number, or both no number.
    """
    ours, theirs = _tensors(first), _tensors(second)
    outputs = [_compared(name, ours.get(name), theirs.get(name)) for name in dict.fromkeys([*ours, *theirs])]
    return Comparison(all(output["is_equal"] for output in outputs), outputs)


def compare_texts(first: Sequence[bytes], second: Sequence[bytes]) -> Comparison:
    """Of the GenerateResponses of two generations, output by output. Raises Internal for what are none."""
    ours, theirs = _texts(first), _texts(second)
    outputs = [_compared_text(index, ours.get(index), theirs.get(index)) for index in sorted({*ours, *theirs})]
    return Comparison(all(output["is_equal"] for output in outputs), outputs)


def _tensors(response: bytes) -> dict[str, Tensor]:
    try:
        return decode_response(oip.ModelInferResponse.FromString(response))
    except (DecodeError, InvalidInput):
        raise Internal("an answer is no ModelInferResponse") from None


def _compared(name: str, ours: Tensor | None, theirs: Tensor | None) -> dict[str, Any]:
    first, second = _kind(ours), _kind(theirs)
    if ours is None or theirs is None or first != second:
        return {"name": name, "is_equal": False, "first": first, "second": second}
    equal, difference = _difference(ours.array, theirs.array)
    share = float(np.mean(equal)) if equal.size else 1.0
    return {"name": name, "is_equal": share == 1.0, "share_equal": share, "max_abs_difference": difference}


def _kind(tensor: Tensor | None) -> dict[str, Any] | None:
    return None if tensor is None else {"datatype": tensor.datatype, "shape": list(tensor.array.shape)}


def _difference(ours: Array, theirs: Array) -> tuple[Array, float | None]:
    """Which elements are equal, [shape], and the largest difference of those that are finite; None for texts."""
    if ours.dtype.kind not in "fiub":
        return np.asarray(ours == theirs, dtype=bool), None
    equal = np.asarray(ours == theirs, dtype=bool)
    wide_ours, wide_theirs = ours.astype(np.float64), theirs.astype(np.float64)
    equal |= np.isnan(wide_ours) & np.isnan(wide_theirs)
    finite = np.isfinite(wide_ours) & np.isfinite(wide_theirs)
    differences = np.abs(wide_ours[finite] - wide_theirs[finite])
    return equal, float(differences.max(initial=0.0))


def _texts(responses: Sequence[bytes]) -> dict[int, Output]:
    outputs: dict[int, Output] = {}
    for content in responses:
        try:
            response = lm.GenerateResponse.FromString(content)
        except DecodeError:
            raise Internal("an answer is no GenerateResponse") from None
        if response.text or response.token_ids or response.tool_calls or response.finish_reason:
            outputs.setdefault(response.index, Output(response.index)).add(response)
    return outputs


def _compared_text(index: int, ours: Output | None, theirs: Output | None) -> dict[str, Any]:
    ours, theirs = ours or Output(index), theirs or Output(index)
    pairs = zip_longest(ours.token_ids, theirs.token_ids)
    first_difference = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
    is_equal = (
        first_difference is None
        and "".join(ours.texts) == "".join(theirs.texts)
        and ours.tool_calls == theirs.tool_calls
        and ours.finish_reason == theirs.finish_reason
    )
    return {
        "index": index,
        "is_equal": is_equal,
        "first_difference": first_difference,
        "num_tokens": [len(ours.token_ids), len(theirs.token_ids)],
        "finish_reasons": [finish_reason_name(ours.finish_reason), finish_reason_name(theirs.finish_reason)],
        "text": "".join(theirs.texts),
    }
