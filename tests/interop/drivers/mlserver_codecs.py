"""Driver of MLServer's types, codecs and stubs: `mlserver_codecs.py grpc|rest`. Runs in the environment `mlserver`.

MLServer has no client class: its users encode with codecs and post the types' JSON, or send the converters' messages.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import aiohttp
import grpc
import numpy as np
import pandas as pd
from driver import Driver, Failed, Json, array_of, is_text, run, tensor_json
from google.protobuf.json_format import ParseDict
from mlserver.codecs import NumpyCodec, PandasCodec, StringCodec
from mlserver.grpc import converters, dataplane_pb2, dataplane_pb2_grpc, model_repository_pb2
from mlserver.types import InferenceRequest, InferenceResponse, Parameters, RequestInput, RequestOutput

CALL_S = 30.0


def request_of(
    inputs: list[Json], outputs: list[str] | None = None, id: str = "", parameters: Json | None = None
) -> InferenceRequest:
    asked = None if outputs is None else [RequestOutput(name=name) for name in outputs]
    given = None if parameters is None else Parameters(**parameters)
    encoded = [encoded_input(tensor) for tensor in inputs]
    return InferenceRequest(id=id or None, inputs=encoded, outputs=asked, parameters=given)


def encoded_input(tensor: Json) -> RequestInput:
    array = array_of(tensor)
    if tensor["datatype"] == "BYTES":
        texts = [value.decode() for value in array.ravel()]
        made = StringCodec.encode_input(tensor["name"], texts)
    else:
        made = NumpyCodec.encode_input(tensor["name"], array)
    # The codecs make a column of strings and a row of a vector; a scenario says the shape itself.
    return made.model_copy(update={"shape": tensor["shape"]})


def answer_of(response: InferenceResponse) -> Json:
    outputs = {one.name: decoded_output(one) for one in response.outputs}
    return {
        "id": response.id or "", "version": response.model_version, "outputs": outputs, "order": list(outputs),
    }  # fmt: skip


def decoded_output(output: Any) -> Json:
    if output.datatype == "BYTES":
        values: Any = [text.encode() for text in StringCodec.decode_output(output)]
        array = np.empty(len(values), dtype=np.object_)
        array[:] = values
    else:
        array = NumpyCodec.decode_output(output)
    return tensor_json(str(output.datatype), output.shape, array)


class MLServer(Driver):
    """What both transports have."""

    def why_not(self, call: str, arguments: Json) -> str | None:
        datatypes = {tensor["datatype"] for tensor in arguments.get("inputs", [])}
        if "BF16" in datatypes:
            return "MLServer's types know no BF16"
        if any(tensor["datatype"] == "BYTES" and not is_text(tensor) for tensor in arguments.get("inputs", [])):
            return "StringCodec takes text"
        if "answer" in arguments or "compression" in arguments:
            return "the codecs know neither the binary extension nor compression"
        return None

    async def infer_many(self, model: str, count: int) -> Json:
        async def ask(number: int) -> bool:
            tensor = {"name": "int32_in", "datatype": "INT32", "shape": [1, 1], "data": [number]}
            found = await self.infer(model, [tensor], "explicit", outputs=["int32_out"], id=f"r{number}")
            return bool(found["id"] == f"r{number}" and found["outputs"]["int32_out"]["data"] == [number])

        return {"right": sum(await asyncio.gather(*map(ask, range(count))))}

    async def infer_frame(self, model: str, columns: Json) -> Json:
        """A pandas data frame, a tensor a column, there and back."""
        frame = pd.DataFrame(columns)
        request = PandasCodec.encode_request(frame)
        request.outputs = [RequestOutput(name=name.replace("_in", "_out")) for name in columns]
        response = await self.exchange(model, "", request, is_raw=False)
        found = PandasCodec.decode_response(response)
        return {"columns": {name.removesuffix("_out"): found[name].tolist() for name in found}}

    async def infer(
        self, model: str, inputs: list[Json], form: str, outputs: list[str] | None = None, id: str = "",
        version: str = "", parameters: Json | None = None,
    ) -> Json:  # fmt: skip
        request = request_of(inputs, outputs, id, parameters)
        return answer_of(await self.exchange(model, version, request, is_raw=form == "binary"))

    async def exchange(self, model: str, version: str, request: InferenceRequest, is_raw: bool) -> InferenceResponse:
        raise NotImplementedError


class MLServerGrpc(MLServer):
    """The converters and the stubs."""

    async def open(self) -> None:
        size = [("grpc.max_receive_message_length", -1)]
        self.channel = grpc.aio.insecure_channel(self.plan["grpc"], options=size)
        self.stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def why_not(self, call: str, arguments: Json) -> str | None:
        datatypes = {tensor["datatype"] for tensor in arguments.get("inputs", [])}
        if "FP16" in datatypes and arguments["form"] == "explicit":
            return "FP16 travels only raw over gRPC"
        return super().why_not(call, arguments)

    async def close(self) -> None:
        await self.channel.close()

    async def _call(self, method: str, request: Any) -> Any:
        try:
            return await getattr(self.stub, method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            raise Failed(error.code().name, error.details()) from None

    async def server_live(self) -> Json:
        return {"live": (await self._call("ServerLive", dataplane_pb2.ServerLiveRequest())).live}

    async def server_ready(self) -> Json:
        return {"ready": (await self._call("ServerReady", dataplane_pb2.ServerReadyRequest())).ready}

    async def server_metadata(self) -> Json:
        found = await self._call("ServerMetadata", dataplane_pb2.ServerMetadataRequest())
        types = converters.ServerMetadataResponseConverter.to_types(found)
        return {"name": types.name, "extensions": types.extensions}

    async def model_ready(self, model: str, version: str = "") -> Json:
        request = dataplane_pb2.ModelReadyRequest(name=model, version=version)
        return {"ready": (await self._call("ModelReady", request)).ready}

    async def model_metadata(self, model: str, version: str = "") -> Json:
        request = dataplane_pb2.ModelMetadataRequest(name=model, version=version)
        types = converters.ModelMetadataResponseConverter.to_types(await self._call("ModelMetadata", request))
        inputs = [{"name": one.name, "datatype": str(one.datatype), "shape": one.shape} for one in types.inputs]
        return {"versions": types.versions, "inputs": inputs}

    async def index(self) -> Json:
        found = await self._call("RepositoryIndex", model_repository_pb2.RepositoryIndexRequest())
        return {"models": [model.name for model in found.models]}

    async def load(self, model: str) -> Json:
        await self._call("RepositoryModelLoad", model_repository_pb2.RepositoryModelLoadRequest(model_name=model))
        return {}

    async def unload(self, model: str) -> Json:
        await self._call("RepositoryModelUnload", model_repository_pb2.RepositoryModelUnloadRequest(model_name=model))
        return {}

    async def message(self, message: Json) -> Json:
        response = await self._call("ModelInfer", ParseDict(message, dataplane_pb2.ModelInferRequest()))
        return {"id": response.id}

    async def exchange(self, model: str, version: str, request: InferenceRequest, is_raw: bool) -> InferenceResponse:
        message = converters.ModelInferRequestConverter.from_types(request, model, version, use_raw=is_raw)
        return converters.ModelInferResponseConverter.to_types(await self._call("ModelInfer", message))


class MLServerRest(MLServer):
    """The types' JSON, posted."""

    form = "explicit"

    async def open(self) -> None:
        self.session = aiohttp.ClientSession(self.plan["url"], timeout=aiohttp.ClientTimeout(CALL_S))

    def why_not(self, call: str, arguments: Json) -> str | None:
        if arguments.get("form") == "binary":
            return "MLServer's REST has no binary tensors"
        if any(isinstance(tensor["data"], dict) for tensor in arguments.get("inputs", [])):
            return "16 MiB are more than the gateway's limit of a body when they are written as JSON"
        return super().why_not(call, arguments)

    async def close(self) -> None:
        await self.session.close()

    async def exchange(self, model: str, version: str, request: InferenceRequest, is_raw: bool) -> InferenceResponse:
        path = f"/v2/models/{model}/versions/{version}/infer" if version else f"/v2/models/{model}/infer"
        body = request.model_dump_json(exclude_none=True)
        async with self.session.post(path, data=body, headers={"content-type": "application/json"}) as response:
            text = await response.text()
            if response.status != 200:
                raise Failed(str(response.status), text)
            return InferenceResponse.model_validate_json(text)


if __name__ == "__main__":
    run({"grpc": MLServerGrpc, "rest": MLServerRest}[sys.argv[1]])
