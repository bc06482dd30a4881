"""The REST part of the Open Inference Protocol but for what runs a model: health, metadata, repository, statistics.

Infer is in gateway/rest/v2_infer.py, the generate extension in gateway/rest/v2_generate.py.
"""

from __future__ import annotations

import base64

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.repository import RepositoryControl
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.message_json import message_to_json
from gateway.server_metadata import server_metadata
from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip

_MAX_INT64 = 2**63 - 1


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
        exchange = sse.exchange_of(request)
        self._dataplane.deployment(name, exchange)
        return json_response(_metadata_json(await self._dataplane.metadata(name, exchange, version)))

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/{model}/ready: 503 when no predictor has it ready."""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        is_ready = self._dataplane.is_ready(name, version)
        return json_response({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    async def model_config(self, request: Request) -> Response:
        """GET /v2/models/{model}/config"""
        name, version = _model_of(request)
        exchange = sse.exchange_of(request)
        self._dataplane.deployment(name, exchange)
        return json_response(message_to_json((await self._dataplane.config(name, exchange, version)).config))

    async def model_statistics(self, request: Request) -> Response:
        """GET /v2/models/{model}/stats"""
        name, version = _model_of(request)
        self._dataplane.deployment(name, sse.exchange_of(request))
        return json_response(message_to_json(await self._dataplane.statistics(name, version)))

    async def all_statistics(self, _request: Request) -> Response:
        """GET /v2/models/stats: of every model that is ready."""
        found = oip.ModelStatisticsResponse()
        for entry in self._dataplane.index(only_ready=True):
            found.MergeFrom(await self._dataplane.statistics(entry.name))
        return json_response(message_to_json(found))

    async def list_models(self, _request: Request) -> Response:
        """GET /v2/models: the names, as KServe lists them."""
        return json_response({"models": [deployment.name for deployment in self._dataplane.deployments()]})

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
        parameters = repository_parameters(await bodies.read_object(request, may_be_empty=True))
        await self._repository.load(name, parameters)
        return json_response({"model_name": name, "isLoaded": True})

    async def unload(self, request: Request) -> Response:
        """POST /v2/repository/models/{model}/unload"""
        name = request.path_params["model"]
        self._dataplane.deployment(name, sse.exchange_of(request))
        parameters = repository_parameters(await bodies.read_object(request, may_be_empty=True))
        await self._repository.unload(name, parameters)
        return json_response({"model_name": name, "isUnloaded": True})


def repository_parameters(body: dict[str, Json]) -> dict[str, oip.ModelRepositoryParameter]:
    """The parameters of a load or unload, by name; files ("file:…") are base64. Raises InvalidInput."""
    parameters = body.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput("'parameters' must be an object", field="parameters")
    return {name: _repository_parameter(name, value) for name, value in parameters.items()}


def _repository_parameter(name: str, value: Json) -> oip.ModelRepositoryParameter:
    if isinstance(value, bool):
        return oip.ModelRepositoryParameter(bool_param=value)
    if isinstance(value, int) and value <= _MAX_INT64:
        return oip.ModelRepositoryParameter(int64_param=value)
    if not isinstance(value, str):
        raise InvalidInput("a parameter must be a boolean, a whole number of 64 bits or a string", field="parameters")
    if not name.startswith("file:"):
        return oip.ModelRepositoryParameter(string_param=value)
    try:
        return oip.ModelRepositoryParameter(bytes_param=base64.b64decode(value, validate=True))
    except ValueError:
        raise InvalidInput("a parameter 'file:…' must be base64", field="parameters") from None


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
