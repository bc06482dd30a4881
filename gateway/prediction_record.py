"""A finished exchange as one flat, JSON-ready record: what was asked, of which model, and what it said.

Runs on the prediction log's thread: parsing bytes that only passed through is done here, not on the request's path.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from google.protobuf.message import DecodeError, Message

from gateway.exchange import Exchange, ExplainCall, TensorCall
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, decode_request, decode_response
from mesh.v1 import explain_pb2

M = TypeVar("M", bound=Message)

# An explanation's record names what was explained; longer texts are in the generation that it explains.
_MAX_TEXT_CHARS = 2000
# The texts of a stream's calls are joined, so that the calls themselves need not all be shown.
_MAX_SHOWN_CALLS = 16


def record_of(exchange: Exchange) -> dict[str, Any]:
    """The record. A request that caused several generations has the first one's fields, and a list of the others."""
    record: dict[str, Any] = {
        "request_id": exchange.request_id,
        "time": datetime.fromtimestamp(exchange.started_at, UTC).isoformat(timespec="microseconds"),
        "protocol": exchange.protocol,
        "route": exchange.route,
        "deployment": exchange.deployment,
        "model": None,
        "status": exchange.code,
        "error": exchange.error,
        "trace_id": exchange.trace_id,
        "timings": {"total_s": round(exchange.total_s, 6)},
    }
    if exchange.taken is not None:
        record["traffic"] = {"arm": exchange.taken.arm, "served_by": exchange.taken.served_by}
    _add_generations(record, exchange)
    _add_tensor_calls(record, exchange)
    _add_explain_calls(record, exchange)
    return record


def _add_generations(record: dict[str, Any], exchange: Exchange) -> None:
    if not exchange.generations:
        return
    first, *others = [generation.record() for generation in exchange.generations]
    timings = record["timings"] | first["timings"]
    record.update(first, timings=timings)
    if others:
        record["other_generations"] = others
    start = next((one.start for one in exchange.generations if one.start is not None), None)
    if start is not None:
        record["model"] = _model(start.model_name, start.model_version, start.model_digest)


def _add_tensor_calls(record: dict[str, Any], exchange: Exchange) -> None:
    if not exchange.tensor_calls:
        return
    calls = [_tensor_call(call, record) for call in exchange.tensor_calls]
    record["tensor_calls"] = calls[:_MAX_SHOWN_CALLS]
    record["num_tensor_calls"] = exchange.num_tensor_calls


def _tensor_call(call: TensorCall, record: dict[str, Any]) -> dict[str, Any]:
    request = _parsed(call.request, oip.ModelInferRequest)
    response = _parsed(call.response, oip.ModelInferResponse)
    if record["model"] is None and response is not None and response.model_name:
        record["model"] = _model(response.model_name, response.model_version, None)
    _add_texts(record, request, response)
    return {
        "id": request.id if request is not None else None,
        "inputs": _shapes(request.inputs) if request is not None else None,
        "outputs": _shapes(response.outputs) if response is not None else None,
    }


def _add_texts(
    record: dict[str, Any], request: oip.ModelInferRequest | None, response: oip.ModelInferResponse | None
) -> None:
    """A language model behind plain OIP: its texts are tensors. Those of a stream come piece by piece."""
    if request is not None and (prompt := _text(decode_request, request, request.inputs, "text_input")) is not None:
        record["prompt"] = {"text": prompt}
    if (
        response is not None
        and (output := _text(decode_response, response, response.outputs, "text_output")) is not None
    ):
        record["output"] = {"text": record.get("output", {"text": ""})["text"] + output}


def _text(decode: Callable[[M], dict[str, Tensor]], message: M, tensors: Any, name: str) -> str | None:
    if all(one.name != name for one in tensors):
        return None  # most models are not of language: their tensors need not be decoded
    try:
        tensor = decode(message).get(name)
    except InvalidInput:
        return None
    if tensor is None or tensor.datatype != "BYTES":
        return None
    return b"".join(tensor.array.ravel().tolist()).decode(errors="replace")


def _add_explain_calls(record: dict[str, Any], exchange: Exchange) -> None:
    if exchange.explain_calls:
        record["explain_calls"] = [_explain_call(call, record) for call in exchange.explain_calls]


def _explain_call(call: ExplainCall, record: dict[str, Any]) -> dict[str, Any]:
    response = _parsed(call.response, explain_pb2.ExplainResponse)
    if response is None:
        return {"method": None, "predictor_calls": None, "targets": None}
    if response.model_name:
        record["model"] = _model(response.model_name, response.model_version, None)
    return {
        "method": response.method,
        "predictor_calls": response.predictor_calls,
        "targets": [explanation.target[:_MAX_TEXT_CHARS] for explanation in response.explanations],
    }


def _parsed(message: M | bytes | None, kind: type[M]) -> M | None:
    """The message; None when there is none (too large to keep, or never came) or when it is malformed."""
    if not isinstance(message, bytes):
        return message
    try:
        return kind.FromString(message)
    except DecodeError:
        return None


def _shapes(tensors: Any) -> list[dict[str, Any]]:
    return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in tensors]


def _model(name: str, version: str, digest: str | None) -> dict[str, str | None]:
    return {"name": name, "version": version, "digest": digest or None}
