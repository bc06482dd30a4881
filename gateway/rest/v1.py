"""The V1 protocol: `:predict` and `:explain` on rows of plain JSON, for classical and for language models alike.

A language model's instances are {"prompt": …} or {"messages": […]}, each with its sampling parameters, and its
predictions are texts. Reference: KServe's "V1 inference protocol".
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.non_finite import allows_non_finite
from gateway.rest.openai_messages import Conversation
from gateway.rest.sampling import sampling_from_json
from gateway.rest.v1_instances import add_inputs, instances_of, is_columnar, outputs_of, predictions_of, tensors_of
from gateway.rest.validation import validated
from mesh.deployments import is_language_model
from mesh.errors import InvalidInput
from mesh.merging import merged
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import decode_response
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm

MAX_TEXT_INSTANCES = 128
_MAX_CONCURRENT_EXPLANATIONS = 4


class V1Routes:
    """Handlers of /v1/models/{model}:predict and :explain."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def predict(self, request: Request) -> Response:
        """POST /v1/models/{model}:predict"""
        exchange = sse.exchange_of(request)
        deployment = self._dataplane.deployment(request.path_params["model"], exchange)
        non_finite = allows_non_finite(deployment)
        body = await bodies.read_object(request, non_finite=non_finite)
        if is_language_model(deployment):
            return json_response({"predictions": await self._texts(deployment.name, body, exchange)})
        infer = await self._infer_request(deployment.name, body, exchange)
        outputs = decode_response(await self._dataplane.infer(infer, exchange))
        if is_columnar(body):
            return json_response({"outputs": outputs_of(outputs, non_finite=non_finite)})
        predictions = predictions_of(outputs, len(instances_of(body)), non_finite=non_finite)
        return json_response({"predictions": predictions})

    async def explain(self, request: Request) -> Response:
        """POST /v1/models/{model}:explain"""
        exchange = sse.exchange_of(request)
        deployment = self._dataplane.deployment(request.path_params["model"], exchange)
        body = await bodies.read_object(request, non_finite=allows_non_finite(deployment))
        method = body.get("method", "")
        if not isinstance(method, str):
            raise InvalidInput("'method' must be a string", field="method")
        if is_language_model(deployment):
            subjects = [_text_subject(one, index) for index, one in enumerate(_text_instances(body))]
            requests = [
                explain_pb2.ExplainRequest(model_name=deployment.name, method=method, text=subject)
                for subject in subjects
            ]
        else:
            infer = await self._infer_request(deployment.name, body, exchange)
            requests = [explain_pb2.ExplainRequest(model_name=deployment.name, method=method, infer=infer)]
        responses = await self._explain_all(requests, exchange)
        return json_response(
            {"explanations": [_explanation(one) for response in responses for one in response.explanations]}
        )

    async def alive(self, _request: Request) -> Response:
        """GET /: how KServe's client asks of V1 whether the server lives."""
        return json_response({"status": "alive"})

    async def _infer_request(self, name: str, body: dict[str, Json], exchange: Exchange) -> oip.ModelInferRequest:
        metadata = await self._dataplane.metadata(name, exchange)
        request = oip.ModelInferRequest(model_name=name)
        add_inputs(request, tensors_of(body, metadata))
        return request

    async def _texts(self, name: str, body: dict[str, Json], exchange: Exchange) -> list[str]:
        common = body.get("parameters") or {}
        if not isinstance(common, dict):
            raise InvalidInput("'parameters' must be an object", field="parameters")
        requests = [_generate_request(name, one, common, index) for index, one in enumerate(_text_instances(body))]
        texts = [""] * len(requests)
        async with aclosing(merged([self._dataplane.generate(one, exchange) for one in requests])) as messages:
            async for index, message in messages:
                texts[index] += message.text
        return texts

    async def _explain_all(
        self, requests: list[explain_pb2.ExplainRequest], exchange: Exchange
    ) -> list[explain_pb2.ExplainResponse]:
        # An explanation is many calls to the predictor: a few at a time are enough.
        slots = asyncio.Semaphore(_MAX_CONCURRENT_EXPLANATIONS)
        responses: dict[int, explain_pb2.ExplainResponse] = {}

        async def explain(index: int, request: explain_pb2.ExplainRequest) -> None:
            async with slots:
                responses[index] = await self._dataplane.explain(request, exchange)

        tasks = [asyncio.create_task(explain(index, request)) for index, request in enumerate(requests)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [responses[index] for index in range(len(requests))]


def _text_instances(body: dict[str, Json]) -> list[dict[str, Json]]:
    instances = instances_of(body)
    if len(instances) > MAX_TEXT_INSTANCES:
        raise InvalidInput(f"{len(instances)} instances; the limit is {MAX_TEXT_INSTANCES}", field="instances")
    for index, instance in enumerate(instances):
        if not isinstance(instance, dict) or ("prompt" in instance) == ("messages" in instance):
            raise InvalidInput(f"instances[{index}] must be an object with 'prompt' or 'messages'", field="instances")
        if not isinstance(instance.get("prompt", ""), str):
            raise InvalidInput(f"instances[{index}].prompt must be a string", field="instances")
    return instances


def _generate_request(name: str, instance: dict[str, Json], common: dict[str, Json], index: int) -> lm.GenerateRequest:
    given = {key: value for key, value in instance.items() if key not in ("prompt", "messages")}
    request = lm.GenerateRequest(
        model_name=name, sampling=sampling_from_json({**common, **given}, f"instances[{index}]")
    )
    if "messages" in instance:
        request.messages.CopyFrom(validated(Conversation, instance).to_messages())
    else:
        request.text = instance["prompt"]
    return request


def _text_subject(instance: dict[str, Json], index: int) -> explain_pb2.TextSubject:
    unknown = set(instance) - {"prompt", "messages", "target", "max_tokens"}
    if unknown:
        raise InvalidInput(
            f"instances[{index}] has the unknown field {min(unknown)[:64]!a}; known are prompt, messages, target and "
            "max_tokens",
            field="instances",
        )
    target, max_tokens = instance.get("target", ""), instance.get("max_tokens")
    if not isinstance(target, str):
        raise InvalidInput(f"instances[{index}].target must be a string", field="instances")
    if max_tokens is not None and (type(max_tokens) is not int or not 1 <= max_tokens < 2**31):
        raise InvalidInput(f"instances[{index}].max_tokens must be a whole number from 1", field="instances")
    subject = explain_pb2.TextSubject(target=target, max_tokens=max_tokens)
    if "messages" in instance:
        subject.messages.CopyFrom(validated(Conversation, instance).to_messages())
    else:
        subject.text = instance["prompt"]
    return subject


def _explanation(explanation: explain_pb2.Explanation) -> dict[str, Json]:
    is_text = bool(explanation.rendered_prompt)
    entry: dict[str, Json] = {"target": explanation.target, "score": explanation.score}
    if explanation.HasField("base_score"):
        entry["base_score"] = explanation.base_score
    if is_text:
        entry["rendered_prompt"] = explanation.rendered_prompt
    entry["attributions"] = [
        {"name": one.name, "value": one.value} | ({"start": one.start, "length": one.length} if is_text else {})
        for one in explanation.attributions
    ]
    return entry
