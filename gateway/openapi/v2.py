"""The Open Inference Protocol's rows and bodies."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.openapi.messages import message, message_schemas
from gateway.openapi.operation import STRING, Operation, Schema, example_of
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import DATATYPES

TAG = "Open Inference Protocol"
TRITON_TAG = "Triton's other routes"

_METADATA = oip.ModelMetadataResponse.DESCRIPTOR
_CONFIG = oip.ModelConfig.DESCRIPTOR
_STATISTICS = oip.ModelStatisticsResponse.DESCRIPTOR
_SERVER = oip.ServerMetadataResponse.DESCRIPTOR
_INDEX = oip.RepositoryIndexResponse.ModelIndex.DESCRIPTOR

_PARAMETER: Schema = {"type": ["boolean", "number", "string"]}
_DIMENSION: Schema = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
_DATATYPE: Schema = {"type": "string", "enum": list(DATATYPES)}
_DATA: Schema = {
    "type": "array",
    "description": "Flat in row-major order, or nested as the shape says.",
    "items": {"type": ["boolean", "number", "string", "array"]},
}


def _object(required: tuple[str, ...] = (), **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    return schema | ({"required": list(required)} if required else {})


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameters(description: str) -> Schema:
    return {"type": ["object", "null"], "description": description, "additionalProperties": _PARAMETER}


_READY = _object(("name", "ready"), name=STRING, ready={"type": "boolean"})

SCHEMAS: dict[str, Schema] = {
    **message_schemas(_METADATA, _CONFIG, _STATISTICS, _SERVER, _INDEX),
    "InferInput": _object(
        ("name", "datatype", "shape"),
        name=STRING,
        datatype=_DATATYPE,
        shape={"type": "array", "items": _DIMENSION, "maxItems": 32},
        parameters=_parameters("binary_data_size: this tensor's bytes stand behind the JSON, and `data` is absent."),
        data=_DATA,
    ),
    "InferRequestedOutput": _object(
        ("name",),
        name=STRING,
        parameters=_parameters("binary_data: true for bytes behind the JSON, false for `data`."),
    ),
    "InferRequest": _object(
        ("inputs",),
        id=STRING,
        parameters=_parameters("binary_data_output: true for outputs as bytes behind the JSON."),
        inputs={"type": "array", "items": _ref("InferInput"), "minItems": 1},
        outputs={"type": ["array", "null"], "items": _ref("InferRequestedOutput")},
    ),
    "InferOutput": _object(
        ("name", "datatype", "shape"),
        name=STRING,
        datatype=_DATATYPE,
        shape={"type": "array", "items": _DIMENSION},
        parameters={"type": "object", "description": "non_finite_as_null, content_type, or binary_data_size."},
        data={"type": "array", "items": {"type": ["boolean", "number", "string", "null"]}},
    ),
    "InferResponse": _object(
        ("model_name", "model_version", "outputs"),
        model_name=STRING,
        model_version=STRING,
        id=STRING,
        parameters={"type": "object"},
        outputs={"type": "array", "items": _ref("InferOutput")},
    ),
    "GenerateRequest": _object(
        ("text_input",),
        id=STRING,
        text_input=STRING,
        parameters={"type": ["object", "null"], "description": "Sampling parameters; they may also stand beside."},
        exclude_input_in_output={"type": "boolean"},
    ),
    "GenerateResponse": _object(
        ("model_name", "model_version", "text_output", "details"),
        id=STRING,
        model_name=STRING,
        model_version=STRING,
        text_output=STRING,
        details={"type": "object"},
    ),
    "RepositoryRequest": _object(
        parameters={
            "type": ["object", "null"],
            "description": "Options; files are base64 under `file:NAME`.",
            "additionalProperties": {"type": ["boolean", "integer", "string"]},
        }
    ),
}

_INFER_EXAMPLE = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}]}


def operations() -> Iterator[Operation]:
    """All rows of the protocol."""
    yield Operation("GET", "/v2", TAG, "Name, version and extensions of the server", message(_SERVER))
    yield Operation("GET", "/v2/health/live", TAG, "Is the server alive?", _object(("live",), live={"type": "boolean"}))
    ready = _object(("ready",), ready={"type": "boolean"})
    yield Operation("GET", "/v2/health/ready", TAG, "Does the server take requests?", ready, not_ready=ready)
    names = _object(("models",), models={"type": "array", "items": STRING})
    yield Operation("GET", "/v2/models", TAG, "Names of all models", names)
    yield Operation("GET", "/v2/models/stats", TAG, "Statistics of all models that are ready", message(_STATISTICS))
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        yield from _of_model(path)
    index: Schema = {"type": "array", "items": message(_INDEX)}
    only_ready = {"schema": _object(ready={"type": "boolean"})}
    yield Operation(
        "POST", "/v2/repository/index", TAG, "All models and their states", index, only_ready, body_may_be_empty=True
    )
    for verb, done in (("load", "isLoaded"), ("unload", "isUnloaded")):
        answer = _object(("model_name", done), model_name=STRING, **{done: {"type": "boolean"}})
        path = f"/v2/repository/models/{{model}}/{verb}"
        body = {"schema": _ref("RepositoryRequest")}
        summary = f"{verb.capitalize()} a model"
        yield Operation("POST", path, TAG, summary, answer, body, body_may_be_empty=True, more=(409,))
    yield from _of_triton()


def _of_model(path: str) -> Iterator[Operation]:
    infer = example_of(_ref("InferRequest"), _INFER_EXAMPLE)
    generate = example_of(_ref("GenerateRequest"), {"text_input": "The capital of France is", "max_tokens": 8})
    yield Operation("GET", path, TAG, "Names, datatypes and shapes of a model's tensors", message(_METADATA))
    yield Operation("GET", f"{path}/ready", TAG, "Does the model take requests?", _READY, not_ready=_READY)
    yield Operation("GET", f"{path}/config", TAG, "Triton's description of a model", message(_CONFIG))
    yield Operation("GET", f"{path}/stats", TAG, "Counts and durations of one replica", message(_STATISTICS))
    yield Operation(
        "POST",
        f"{path}/infer",
        TAG,
        "Run a model on tensors",
        _ref("InferResponse"),
        infer,
        has_binary=True,
    )
    answer = _ref("GenerateResponse")
    yield Operation("POST", f"{path}/generate", TAG, "Continue a text", answer, generate)
    streamed = f"{path}/generate_stream"
    yield Operation("POST", streamed, TAG, "Continue a text, event by event", answer, generate, only_streams=True)


def _of_triton() -> Iterator[Operation]:
    settings = ("/v2/logging", "/v2/trace/setting", "/v2/models/{model}/trace/setting")
    for path in settings:
        for method in ("GET", "POST"):
            yield Operation(method, path, TRITON_TAG, "Not offered", None, more=(501,))
    for kind in ("system", "cuda"):
        for path in (f"/v2/{kind}sharedmemory", f"/v2/{kind}sharedmemory/region/{{region}}"):
            empty: Schema = {"type": "array", "maxItems": 0}
            one = None if "region/" in path else empty
            yield Operation("GET", f"{path}/status", TRITON_TAG, "Registered regions: none", one)
            yield Operation("POST", f"{path}/unregister", TRITON_TAG, "Not offered", None, more=(501,))
        path = f"/v2/{kind}sharedmemory/region/{{region}}/register"
        yield Operation("POST", path, TRITON_TAG, "Not offered", None, more=(501,))
