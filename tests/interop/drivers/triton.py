"""Driver of tritonclient: `triton.py grpc|grpc_aio|http|http_aio`. Runs in the environment `mlserver`."""

from __future__ import annotations

import asyncio
import inspect
import json
import queue
import sys
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as sync_grpc
import tritonclient.grpc.aio as aio_grpc
import tritonclient.http as sync_http
import tritonclient.http.aio as aio_http
from driver import Driver, Failed, Json, array_of, run, tensor_json
from google.protobuf.json_format import ParseDict
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

STREAM_S = 60.0


def code_of(error: InferenceServerException) -> str:
    return str(error.status()).removeprefix("StatusCode.")


class Triton(Driver):
    """What both transports have. `module`: of the client's classes."""

    module: ModuleType
    client: Any

    async def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            found = getattr(self.client, method)(*arguments, **named)
            return await found if inspect.isawaitable(found) else found
        except InferenceServerException as error:
            raise Failed(code_of(error), error.message()) from None

    async def close(self) -> None:
        await self._call("close")

    async def server_live(self) -> Json:
        return {"live": await self._call("is_server_live")}

    async def server_ready(self) -> Json:
        return {"ready": await self._call("is_server_ready")}

    async def model_ready(self, model: str, version: str = "") -> Json:
        return {"ready": await self._call("is_model_ready", model, version)}

    async def load(self, model: str) -> Json:
        await self._call("load_model", model)
        return {}

    async def unload(self, model: str) -> Json:
        await self._call("unload_model", model)
        return {}

    def inputs(self, tensors: list[Json], **binary: bool) -> list[Any]:
        made = []
        for tensor in tensors:
            array = array_of(tensor)
            if tensor["datatype"] == "BF16":
                array = array.astype(ml_dtypes.bfloat16)
            made.append(self.module.InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
            made[-1].set_data_from_numpy(array, **binary)
        return made

    async def infer_many(self, model: str, count: int) -> Json:
        """As many at once as the client can: a sync one sends them one after the other."""

        async def ask(number: int) -> bool:
            tensor = {"name": "int32_in", "datatype": "INT32", "shape": [1, 1], "data": [number]}
            found = await self.infer(model, [tensor], "binary", outputs=["int32_out"], id=f"r{number}")
            return bool(found["id"] == f"r{number}" and found["outputs"]["int32_out"]["data"] == [number])

        return {"right": sum(await asyncio.gather(*map(ask, range(count))))}


class TritonGrpc(Triton):
    """tritonclient.grpc; its aio form is the same but for the streams."""

    module = sync_grpc

    async def open(self) -> None:
        self.client = self.module.InferenceServerClient(self.plan["grpc"])

    def why_not(self, call: str, arguments: Json) -> str | None:
        if arguments.get("form") == "explicit":
            return "tritonclient.grpc sends raw contents only"
        if "answer" in arguments:
            return "gRPC has no JSON"
        return None

    async def server_metadata(self) -> Json:
        found = await self._call("get_server_metadata")
        return {"name": found.name, "extensions": list(found.extensions)}

    async def model_metadata(self, model: str, version: str = "") -> Json:
        found = await self._call("get_model_metadata", model, version)
        inputs = [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in found.inputs]
        return {"versions": list(found.versions), "inputs": inputs}

    async def model_config(self, model: str) -> Json:
        config = (await self._call("get_model_config", model)).config
        return {"max_batch_size": config.max_batch_size, "decoupled": config.model_transaction_policy.decoupled}

    async def statistics(self, model: str) -> Json:
        found = (await self._call("get_inference_statistics", model)).model_stats
        return {"success": found[0].inference_stats.success.count, "models": [one.name for one in found]}

    async def index(self) -> Json:
        return {"models": [model.name for model in (await self._call("get_model_repository_index")).models]}

    async def shared_memory_status(self) -> Json:
        return {"regions": len((await self._call("get_system_shared_memory_status")).regions)}

    async def register_shared_memory(self) -> Json:
        await self._call("register_system_shared_memory", "region", "/region", 64)
        return {}

    async def infer(
        self, model: str, inputs: list[Json], form: str, outputs: list[str] | None = None, id: str = "",
        version: str = "", parameters: Json | None = None, compression: str | None = None,
    ) -> Json:  # fmt: skip
        result = await self._call(
            "infer", model, self.inputs(inputs), version, self._outputs(outputs), id, parameters=parameters,
            compression_algorithm=compression,
        )  # fmt: skip
        return self._answer(result)

    def _outputs(self, names: list[str] | None) -> list[Any] | None:
        return None if names is None else [self.module.InferRequestedOutput(name) for name in names]

    def _answer(self, result: Any) -> Json:
        response = result.get_response()
        outputs = {
            one.name: tensor_json(one.datatype, one.shape, result.as_numpy(one.name)) for one in response.outputs
        }
        return {"id": response.id, "version": response.model_version, "outputs": outputs, "order": list(outputs)}

    async def message(self, message: Json) -> Json:
        """Through the client's own stubs, since the client fills messages itself."""
        request = ParseDict(message, service_pb2.ModelInferRequest())
        try:
            found = self.client._client_stub.ModelInfer(request, timeout=30)
            response = await found if inspect.isawaitable(found) else found
        except Exception as error:
            raise Failed(error.code().name, error.details()) from None  # type: ignore[attr-defined]
        return {"id": response.id}

    async def stream(self, requests: list[Json], answers: int) -> Json:
        return {"answers": await self._streamed([self._stream_arguments(**request) for request in requests], answers)}

    def _stream_arguments(
        self, model: str, inputs: list[Json], form: str, outputs: list[str] | None = None, id: str = ""
    ) -> Json:
        return {
            "model_name": model, "inputs": self.inputs(inputs), "outputs": self._outputs(outputs), "request_id": id,
        }  # fmt: skip

    async def stream_text(self, model: str, prompt: str, max_tokens: int) -> Json:
        sampling = json.dumps({"temperature": 0, "max_tokens": max_tokens})
        inputs = self.inputs(
            [
                {"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [prompt]},
                {"name": "stream", "datatype": "BOOL", "shape": [1], "data": [True]},
                {"name": "sampling_parameters", "datatype": "BYTES", "shape": [1], "data": [sampling]},
            ]
        )
        request = {"model_name": model, "inputs": inputs, "enable_empty_final_response": True}
        found = await self._streamed([request], None)
        texts = ["".join(one["outputs"].get("text_output", {}).get("data", [])) for one in found]
        return {"pieces": sum(bool(text) for text in texts), "is_whole": bool(found[-1].get("is_final"))}

    async def _streamed(self, requests: list[Json], count: int | None) -> list[Json]:
        """`count` answers, or those up to the one that says that it is the last."""
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        self.client.start_stream(lambda result, error: answers.put((result, error)))
        for request in requests:
            self.client.async_stream_infer(**request)
        found = []
        while count is None or len(found) < count:
            result, error = await asyncio.to_thread(answers.get, timeout=STREAM_S)
            found.append(self._stream_answer(result, error))
            if count is None and found[-1].get("is_final", True):
                break
        self.client.stop_stream()
        return found

    def _stream_answer(self, result: Any, error: Any) -> Json:
        if error is not None:
            return {"error": error.message()}
        is_final = result.get_response().parameters["triton_final_response"].bool_param
        return self._answer(result) | {"is_final": is_final}


class TritonGrpcAio(TritonGrpc):
    """tritonclient.grpc.aio."""

    module = aio_grpc

    async def _streamed(self, requests: list[Json], count: int | None) -> list[Json]:
        async def asked() -> Any:
            for request in requests:
                yield request

        found: list[Json] = []
        async for result, error in self.client.stream_infer(asked(), stream_timeout=STREAM_S):
            found.append(self._stream_answer(result, error))
            if len(found) == count:
                break
        if count is None:
            # This client cannot ask for the mark on the last answer: the last is the one before the stream's end.
            found[-1]["is_final"] = True
        return found


class TritonHttp(Triton):
    """tritonclient.http; its aio form is the same."""

    module = sync_http

    async def open(self) -> None:
        self.client = self.module.InferenceServerClient(self.plan["url"].removeprefix("http://"))

    def why_not(self, call: str, arguments: Json) -> str | None:
        if arguments.get("form") == "explicit" and arguments["inputs"][0]["datatype"] in ("FP16", "BF16"):
            return "tritonclient.http sends FP16 and BF16 as binary data only"
        return None

    async def server_metadata(self) -> Json:
        found: Json = await self._call("get_server_metadata")
        return found

    async def model_metadata(self, model: str, version: str = "") -> Json:
        found: Json = await self._call("get_model_metadata", model, version)
        return found

    async def model_config(self, model: str) -> Json:
        config = await self._call("get_model_config", model)
        policy = config.get("model_transaction_policy", {})
        return {"max_batch_size": config.get("max_batch_size"), "decoupled": policy.get("decoupled", False)}

    async def statistics(self, model: str) -> Json:
        found = (await self._call("get_inference_statistics", model))["model_stats"]
        count = int(found[0]["inference_stats"]["success"]["count"])
        return {"success": count, "models": [one["name"] for one in found]}

    async def index(self) -> Json:
        return {"models": [model["name"] for model in await self._call("get_model_repository_index")]}

    async def shared_memory_status(self) -> Json:
        return {"regions": len(await self._call("get_system_shared_memory_status"))}

    async def register_shared_memory(self) -> Json:
        await self._call("register_system_shared_memory", "region", "/region", 64)
        return {}

    async def infer(
        self, model: str, inputs: list[Json], form: str, outputs: list[str] | None = None, id: str = "",
        version: str = "", parameters: Json | None = None, compression: str | None = None, answer: str | None = None,
    ) -> Json:  # fmt: skip
        is_binary = (answer or form) == "binary"
        asked = None if outputs is None else [self.module.InferRequestedOutput(name, is_binary) for name in outputs]
        result = await self._call(
            "infer", model, self.inputs(inputs, binary_data=form == "binary"), version, asked, id,
            parameters=parameters, request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )  # fmt: skip
        response = result.get_response()
        found = {
            one["name"]: tensor_json(one["datatype"], one["shape"], _array(result.as_numpy(one["name"]), one))
            for one in response["outputs"]
        }
        return {
            "id": response.get("id", ""), "version": response["model_version"], "outputs": found, "order": list(found),
        }  # fmt: skip


class TritonHttpAio(TritonHttp):
    """tritonclient.http.aio."""

    module = aio_http


def _array(array: Any, described: Json) -> Any:
    """The client gives None for an output without bytes."""
    return np.empty(described["shape"]) if array is None else array


DRIVERS = {"grpc": TritonGrpc, "grpc_aio": TritonGrpcAio, "http": TritonHttp, "http_aio": TritonHttpAio}

if __name__ == "__main__":
    run(DRIVERS[sys.argv[1]])
