"""The REST part of the Open Inference Protocol: health, metadata, infer, repository, statistics, configuration.

JSON in, protobuf on, JSON out; the generate extension is in gateway/rest/v2_generate.py. The binary tensor extension is
not served yet, and says so.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.repository import RepositoryControl
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.message_json import message_to_json
from gateway.rest.tensor_json import parameters_from_json, parameters_to_json, tensor_from_json, tensor_to_json
from gateway.server_metadata import server_metadata
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import decode_response, encode_request

_BINARY_HEADER = "inference-header-content-length"
_BINARY_PARAMETERS = frozenset({"binary_data_size", "binary_data", "binary_data_output"})


class V2Routes:
    """Handlers of the /v2 routes. Paths name the model, and may name its version."""

    def __init__(self, dataplane: Dataplane, repository: RepositoryControl) -> None:
        self._dataplane = dataplane
        self._repository = repository

    async def metadata(self, _request: Request) -> Response:
        """GET /v2"""
        return json_response(message_to_json(server_metadata()))

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live"""
        return json_response({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: 503 once the gateway drains."""
        is_ready = not self._dataplane.is_draining
        return json_response({"ready": is_ready}, 200 if is_ready else 503)

    async def model_metadata(self, request: Request) -> Response:
        """GET /v2/models/{model}"""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        return json_response(_metadata_json(await self._dataplane.metadata(name, version)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/{model}/ready: 503 when no predictor has it ready."""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        is_ready = self._dataplane.is_ready(name, version)
        return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def model_config(self, request: Request) -> Response:
        """GET /v2/models/{model}/config"""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        return json_response(message_to_json((await self._dataplane.config(name, version)).config))

    async def model_statistics(self, request: Request) -> Response:
        """GET /v2/models/{model}/stats"""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        return json_response(message_to_json(await self._dataplane.statistics(name, version)))

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/{model}/infer"""
        if _BINARY_HEADER in request.headers:
            raise _no_binary(_BINARY_HEADER)
        name, version = _model_of(request)
        exchange = sse.exchange_of(request)
        self._dataplane.deployment(name, exchange)
        asked = infer_request(await bodies.read_object(request), name, version)
        return json_response(infer_json(await self._dataplane.infer(asked, exchange)))

    async def repository_index(self, request: Request) -> Response:
        """POST /v2/repository/index, with {"ready": true} for the ready ones only."""
        body = await bodies.read_object(request, may_be_empty=True)
        entries = self._dataplane.index(only_ready=body.get("ready") is True)
        return json_response(
            [
                {"name": entry.name, "version": entry.version, "state": entry.state, "reason": entry.reason}
                for entry in entries
            ]
        )

    async def load(self, request: Request) -> Response:
        """POST /v2/repository/models/{model}/load"""
        name = request.path_params["model"]
        self._dataplane.deployment(name, sse.exchange_of(request))
        await self._repository.load(name)
        return json_response({"model_name": name, "isLoaded": True})

    async def unload(self, request: Request) -> Response:
        """POST /v2/repository/models/{model}/unload"""
        name = request.path_params["model"]
        self._dataplane.deployment(name, sse.exchange_of(request))
        await self._repository.unload(name)
        return json_response({"model_name": name, "isUnloaded": True})


def infer_request(body: dict[str, Json], name: str, version: str) -> oip.ModelInferRequest:
    """The body of an infer request as the message. Raises InvalidInput."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("'inputs' must be a list with at least one tensor", field="inputs")
    request_id = body.get("id", "")
    if not isinstance(request_id, str):
        raise InvalidInput("'id' must be a string", field="id")
    _check_no_binary(body.get("parameters"))
    request = oip.ModelInferRequest(model_name=name, model_version=version, id=request_id)
    parameters_from_json(request.parameters, body.get("parameters"), "parameters")
    encode_request(request, [tensor_from_json(entry, position) for position, entry in enumerate(inputs)], raw=True)
    for wire, entry in zip(request.inputs, inputs, strict=True):
        _check_no_binary(entry.get("parameters"))
        parameters_from_json(wire.parameters, entry.get("parameters"), f"inputs.{wire.name}.parameters")
    _add_requested_outputs(request, body.get("outputs"))
    return request


def infer_json(response: oip.ModelInferResponse) -> dict[str, Json]:
    """The body of an answer."""
    tensors = decode_response(response)
    outputs = []
    for wire in response.outputs:
        entry = tensor_to_json(tensors[wire.name])
        parameters = parameters_to_json(wire.parameters) | entry.get("parameters", {})
        outputs.append(entry | ({"parameters": parameters} if parameters else {}))
    body: dict[str, Json] = {"model_name": response.model_name, "model_version": response.model_version}
    if response.id:
        body["id"] = response.id
    if response.parameters:
        body["parameters"] = parameters_to_json(response.parameters)
    return body | {"outputs": outputs}


def _add_requested_outputs(request: oip.ModelInferRequest, outputs: Json) -> None:
    if outputs is None:
        return
    if not isinstance(outputs, list):
        raise InvalidInput("'outputs' must be a list", field="outputs")
    for position, entry in enumerate(outputs):
        where = f"outputs[{position}]"
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise InvalidInput(f"{where} must be an object with a 'name'", field=where)
        _check_no_binary(entry.get("parameters"))
        requested = request.outputs.add(name=entry["name"])
        parameters_from_json(requested.parameters, entry.get("parameters"), f"{where}.parameters")


def _check_no_binary(parameters: Json) -> None:
    if isinstance(parameters, dict):
        # `false` is how clients say that they want JSON.
        asked = [name for name in _BINARY_PARAMETERS if parameters.get(name) not in (None, False)]
        if asked:
            raise _no_binary(asked[0])


def _no_binary(name: str) -> InvalidInput:
    return InvalidInput(f"the binary tensor extension ({name}) is not served yet: send 'data' as JSON", field=name)


def _model_of(request: Request) -> tuple[str, str]:
    return request.path_params["model"], request.path_params.get("version", "")


def _metadata_json(metadata: oip.ModelMetadataResponse) -> dict[str, Json]:
    def tensors(entries: Json) -> list[dict[str, Json]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in entries]

    return {
        "name": metadata.name,
        "versions": list(metadata.versions),
        "platform": metadata.platform,
        "inputs": tensors(metadata.inputs),
        "outputs": tensors(metadata.outputs),
    }
