"""POST …/infer: a request with tensors as JSON, as bytes, or as both becomes one call of ModelInfer, and back.

Inputs travel raw whatever they came as. What a model wants of them is not known here: its server checks names,
datatypes, shapes and sizes, for every front alike.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.rest import bodies, sse
from gateway.rest.bodies import Body, Json, json_bytes, json_response
from gateway.rest.infer_wire import RawTensor, Slice, parse_response, request_bytes, split_response
from gateway.rest.non_finite import allows_non_finite
from gateway.rest.tensor_json import (
    described,
    parameters_from_json,
    parameters_to_json,
    tensor_from_json,
    tensor_to_json,
)
from gateway.rest.v2_binary import (
    ALL_WANTED,
    HEADER,
    SIZE,
    WANTED,
    AnswerForm,
    BinaryData,
    BinaryResponse,
    flag,
    split_body,
)
from mesh.errors import Internal, InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, decode_response, encode_response

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"


class V2InferRoutes:
    """Handler of /v2/models/{model}[/versions/{version}]/infer."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def infer(self, request: Request) -> Response:
        """POST …/infer"""
        name, version = request.path_params["model"], request.path_params.get("version", "")
        exchange = sse.exchange_of(request)
        non_finite = allows_non_finite(self._dataplane.deployment(name, exchange))
        head = oip.ModelInferRequest(model_name=name, model_version=version)
        # No name is given to the body: once the tensors are in `asked` it is of no more use.
        asked, form = read_request(head, await bodies.take(request), request.headers.get(HEADER), non_finite=non_finite)
        answer = None
        try:
            answer = await self._dataplane.forward(MODEL_INFER, name, asked, exchange, version=version)
        finally:
            exchange.add_infer(asked, answer)
        return write_response(answer, form)


def read_request(
    head: oip.ModelInferRequest, body: Body, json_length: str | None, *, non_finite: bool
) -> tuple[bytes, AnswerForm]:
    """The bytes of a ModelInferRequest, and how its answer shall look. Raises InvalidInput.

    head: names model and version. json_length: the header of the binary extension. The tensors in `body` are copied
    once.
    """
    text, data = split_body(body, json_length)
    asked = bodies.parse_object(text, non_finite=non_finite)
    inputs = asked.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("'inputs' must be a list with at least one tensor", field="inputs")
    head.id = _id(asked)
    form = AnswerForm(non_finite=non_finite)
    parameters = _parameters(asked, "parameters")
    form.by_default = flag(parameters, ALL_WANTED, "parameters") or False
    parameters_from_json(head.parameters, _without(parameters, ALL_WANTED), "parameters")
    text_of_data = bytes(text) if isinstance(text, memoryview) else text
    may_hold_booleans = b"true" in text_of_data or b"false" in text_of_data
    raws: list[Slice] = []
    for position, entry in enumerate(inputs):
        tensor = _input(entry, position, data, may_hold_booleans=may_hold_booleans)
        wire = head.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if entry.get("parameters") is not None:
            rest = _without(entry["parameters"], SIZE)
            parameters_from_json(wire.parameters, rest, f"inputs.{tensor.name}.parameters")
        raws.append(tensor.raw)
    data.check_all_taken()
    _add_requested_outputs(head, asked.get("outputs"), form)
    return request_bytes(head, raws), form


def write_response(answer: bytes, form: AnswerForm) -> Response:
    """The HTTP response to the bytes of a ModelInferResponse. Raises Internal when they are none."""
    if not form.may_be_binary:
        return json_response(_body(response := parse_response(answer), _json_outputs(response, form)))
    response, raws = split_response(answer)
    if response.outputs and not raws:
        # Typed contents: of a server that answers so whatever it is asked.
        encoded = oip.ModelInferResponse()
        encode_response(encoded, list(_decoded(response).values()), raw=True)
        raws = [memoryview(raw) for raw in encoded.raw_output_contents]
    if len(raws) != len(response.outputs):
        raise Internal(f"the model's server sent {len(raws)} raw contents for {len(response.outputs)} outputs")
    entries, tensors = [], []
    for wire, raw in zip(response.outputs, raws, strict=True):
        if form.is_binary(wire.name):
            entries.append(_binary_output(wire, len(raw)))
            tensors.append(raw)
        else:
            alone = oip.ModelInferResponse(outputs=[wire], raw_output_contents=[bytes(raw)])
            alone.outputs[0].ClearField("contents")
            entries += _json_outputs(alone, form)
    body = _body(response, entries)
    return BinaryResponse(json_bytes(body), tensors) if tensors else json_response(body)


def _id(asked: dict[str, Json]) -> str:
    request_id = asked.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput("'id' must be a string", field="id")
    return request_id


def _input(entry: Json, position: int, data: BinaryData, *, may_hold_booleans: bool) -> RawTensor:
    where = f"inputs[{position}]"
    if not isinstance(entry, dict):
        raise InvalidInput(f"{where} must be an object", field=where)
    parameters = _parameters(entry, f"{where}.parameters")
    if SIZE not in parameters:
        if "shared_memory_region" in parameters:
            raise InvalidInput(f"{where}: shared memory is not offered; send the tensor in the request", field=where)
        return tensor_from_json(entry, position, may_hold_booleans=may_hold_booleans)
    # KServe's client sends an empty tensor as a size of 0 beside a null.
    if entry.get("data") is not None:
        raise InvalidInput(f"{where} has both 'data' and {SIZE}; give one of them", field=where)
    name, datatype, shape = described(entry, position)
    return RawTensor(name, datatype.name, shape, data.take(parameters[SIZE], f"{where}.parameters"))


def _add_requested_outputs(request: oip.ModelInferRequest, outputs: Json, form: AnswerForm) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, list):
        raise InvalidInput("'outputs' must be a list", field="outputs")
    for position, entry in enumerate(outputs):
        where = f"outputs[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInput(f"{where} must be an object with a 'name'", field=where)
        parameters = _parameters(entry, f"{where}.parameters")
        if "shared_memory_region" in parameters:
            raise InvalidInput(f"{where}: shared memory is not offered", field=where)
        is_binary = flag(parameters, WANTED, f"{where}.parameters")
        if is_binary is not None:
            form.by_output[entry["name"]] = is_binary
        requested = request.outputs.add(name=entry["name"])
        parameters_from_json(requested.parameters, _without(parameters, WANTED), f"{where}.parameters")


def _parameters(owner: dict[str, Json], where: str) -> dict[str, Json]:
    parameters = owner.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"{where} must be an object", field=where)
    return parameters


def _without(parameters: dict[str, Json], name: str) -> dict[str, Json]:
    """Without what is said to this hop only."""
    return {key: value for key, value in parameters.items() if key != name}


def _decoded(response: oip.ModelInferResponse) -> dict[str, Tensor]:
    try:
        return decode_response(response)
    except InvalidInput as error:
        raise Internal(f"the answer of the model's server is wrong: {error.message}") from None


def _json_outputs(response: oip.ModelInferResponse, form: AnswerForm) -> list[dict[str, Json]]:
    tensors = _decoded(response)
    outputs = []
    for wire in response.outputs:
        entry = tensor_to_json(tensors[wire.name], non_finite=form.non_finite)
        if wire.parameters:
            entry["parameters"] = parameters_to_json(wire.parameters) | entry.get("parameters", {})
        outputs.append(entry)
    return outputs


def _binary_output(wire: oip.ModelInferResponse.InferOutputTensor, size_bytes: int) -> dict[str, Json]:
    return {
        "name": wire.name,
        "datatype": wire.datatype,
        "shape": list(wire.shape),
        "parameters": parameters_to_json(wire.parameters) | {SIZE: size_bytes},
    }


def _body(response: oip.ModelInferResponse, outputs: list[dict[str, Json]]) -> dict[str, Json]:
    body: dict[str, Json] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = parameters_to_json(response.parameters)
    body["outputs"] = outputs
    return body
