"""Driver of KServe's clients: `kserve_clients.py grpc|rest`. Runs in the environment `kserve`."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import grpc
import httpx
from driver import Driver, Failed, Json, array_of, is_text, run, tensor_json
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput


def request_of(
    model: str, inputs: list[Json], form: str, outputs: list[str] | None = None, id: str = "",
    parameters: Json | None = None, answer: str | None = None,
) -> InferRequest:  # fmt: skip
    made = []
    for tensor in inputs:
        array = array_of(tensor)
        made.append(InferInput(tensor["name"], list(array.shape), tensor["datatype"]))
        made[-1].set_data_from_numpy(array, binary_data=form == "binary")
    is_binary = {"binary_data": (answer or form) == "binary"}
    asked = [RequestedOutput(name, dict(is_binary)) for name in outputs or ()]
    return InferRequest(model, made, id or None, parameters=parameters, request_outputs=asked or None)


def answer_of(response: Any) -> Json:
    outputs = {one.name: tensor_json(one.datatype, one.shape, one.as_numpy()) for one in response.outputs}
    return {
        "id": response.id, "version": response.model_version, "outputs": outputs, "order": list(outputs),
    }  # fmt: skip


class KServe(Driver):
    """What both clients have."""

    def why_not(self, call: str, arguments: Json) -> str | None:
        inputs = arguments.get("inputs", [])
        if "version" in arguments:
            return "KServe's clients name no version"
        if any(tensor["datatype"] == "BF16" for tensor in inputs):
            return "KServe's clients know no BF16"
        if "compression" in arguments:
            return "KServe's clients do not compress"
        return None

    async def infer_many(self, model: str, count: int) -> Json:
        async def ask(number: int) -> bool:
            tensor = {"name": "int32_in", "datatype": "INT32", "shape": [1, 1], "data": [number]}
            found = await self.infer(
                model=model, inputs=[tensor], form="binary", outputs=["int32_out"], id=f"r{number}"
            )
            return bool(found["id"] == f"r{number}" and found["outputs"]["int32_out"]["data"] == [number])

        return {"right": sum(await asyncio.gather(*map(ask, range(count))))}

    async def infer(self, **arguments: Any) -> Json:
        raise NotImplementedError


class KServeGrpc(KServe):
    """InferenceGRPCClient."""

    async def open(self) -> None:
        # Its own repeats of UNAVAILABLE would only cost time.
        self.client = InferenceGRPCClient(self.plan["grpc"], retries=0)

    def why_not(self, call: str, arguments: Json) -> str | None:
        if arguments.get("form") == "explicit" and arguments["inputs"][0]["datatype"] == "FP16":
            return "FP16 travels only raw over gRPC"
        if "answer" in arguments:
            return "gRPC has no JSON"
        return super().why_not(call, arguments)

    async def close(self) -> None:
        await self.client.close()

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self.client, method)(*arguments)
        except grpc.RpcError as error:
            raise Failed(error.code().name, error.details()) from None

    async def server_live(self) -> Json:
        return {"live": await self._call("is_server_live")}

    async def server_ready(self) -> Json:
        return {"ready": await self._call("is_server_ready")}

    async def model_ready(self, model: str) -> Json:
        return {"ready": await self._call("is_model_ready", model)}

    async def infer(self, **arguments: Any) -> Json:
        return answer_of(await self._call("infer", request_of(**arguments)))


class KServeRest(KServe):
    """InferenceRESTClient, of both protocols."""

    async def open(self) -> None:
        self.v1 = InferenceRESTClient(RESTConfig(protocol="v1", retries=0))
        self.v2 = InferenceRESTClient(RESTConfig(protocol="v2", retries=0))

    async def close(self) -> None:
        await self.v1.close()
        await self.v2.close()

    async def _call(self, client: InferenceRESTClient, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return await getattr(client, method)(self.plan["url"], *arguments, **named)
        except httpx.HTTPStatusError as error:
            raise Failed(str(error.response.status_code), str(error)) from None

    async def server_live(self) -> Json:
        return {"live": await self._call(self.v2, "is_server_live")}

    async def server_ready(self) -> Json:
        return {"ready": await self._call(self.v2, "is_server_ready")}

    async def model_ready(self, model: str) -> Json:
        return {"ready": await self._call(self.v2, "is_model_ready", model)}

    def why_not(self, call: str, arguments: Json) -> str | None:
        if arguments.get("form") == "explicit" and arguments["inputs"][0]["datatype"] == "FP16":
            return "KServe's clients send FP16 as binary data only"
        if call == "infer_version":
            return "KServe's REST client drops the version of an answer"
        if any(tensor["datatype"] == "BYTES" and not is_text(tensor) for tensor in arguments.get("inputs", [])):
            return "KServe's REST client takes BYTES of an answer for text"
        return super().why_not(call, arguments)

    async def infer(self, **arguments: Any) -> Json:
        return answer_of(await self._call(self.v2, "infer", request_of(**arguments), model_name=arguments["model"]))

    async def predict(self, model: str, body: Json) -> Json:
        found: Json = await self._call(self.v1, "infer", body, model_name=model)
        return found

    async def explain(self, model: str, body: Json) -> Json:
        found = await self._call(self.v1, "explain", model, body)
        return {"explanations": len(found["explanations"])}


if __name__ == "__main__":
    logging.disable()  # the clients log each refusal with its stack
    run({"grpc": KServeGrpc, "rest": KServeRest}[sys.argv[1]])
