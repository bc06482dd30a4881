"""OIP inference: a request message becomes arrays, a runtime answers, the arrays become a response message.

Knows the protocol's messages and rules, not gRPC: the servicer passes messages through, and turns what is raised here
into a status. On a stream a bad request is answered with a message instead, and the stream goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from mesh import context
from mesh.errors import MeshError
from mesh.logs import get_logger
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, decode_request, encode_response
from predictor.loader import LoadedModel
from predictor.repository import ModelRepository
from predictor.runtimes.base import Arrays, DecoupledRuntime, TensorSpec

log = get_logger(__name__)

# Triton's parameters for streams: a client asks for a mark on the last answer, since only the server knows which it is.
ASK_FINAL = "triton_enable_empty_final_response"
IS_FINAL = "triton_final_response"


class Inference:
    """Answers ModelInferRequests with the models of `repository`."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def infer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        """The one answer. Raises the MeshErrors of the contract's outcomes table."""
        async with self._repository.hold(request.model_name, request.model_version) as model:
            with model.statistics.request() as watch:
                inputs, outputs = _read(model, request)
                watch.batch_size = model.signature.num_rows(inputs)
                watch.inputs_read()
                arrays = await model.batcher.infer(inputs, watch)
                watch.inferred()
                response = _respond(model, request, arrays, outputs)
                watch.outputs_written()
                return response

    async def infer_stream(
        self, requests: AsyncIterator[oip.ModelInferRequest]
    ) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
        """The answers to a stream of requests, in order; those of a decoupled model come as the model gives them."""
        async for request in requests:
            try:
                async with aclosing(self._answers(request)) as answers:
                    async for response in answers:
                        yield oip.ModelStreamInferResponse(infer_response=response)
            except Exception as error:  # one bad request must not end the stream for the others
                yield oip.ModelStreamInferResponse(
                    error_message=_sentence(error),
                    infer_response=oip.ModelInferResponse(
                        model_name=request.model_name, model_version=request.model_version, id=request.id
                    ),
                )

    async def _answers(self, request: oip.ModelInferRequest) -> AsyncGenerator[oip.ModelInferResponse, None]:
        async with self._repository.hold(request.model_name, request.model_version) as model:
            marks_final = request.parameters[ASK_FINAL].bool_param if ASK_FINAL in request.parameters else False
            if not isinstance(model.runtime, DecoupledRuntime):
                response = await self.infer(request)
                if marks_final:
                    response.parameters[IS_FINAL].bool_param = True
                yield response
                return
            with model.statistics.request() as watch:
                inputs, outputs = _read(model, request)
                watch.inputs_read()
                async with aclosing(model.runtime.infer_stream(inputs)) as answers:
                    async for arrays in answers:
                        response = _respond(model, request, arrays, outputs)
                        if marks_final:
                            response.parameters[IS_FINAL].bool_param = False
                        yield response
                watch.inferred()
            if marks_final:
                last = _empty_response(model, request)
                last.parameters[IS_FINAL].bool_param = True
                yield last


def _read(model: LoadedModel, request: oip.ModelInferRequest) -> tuple[Arrays, Sequence[TensorSpec]]:
    outputs = model.signature.wanted_outputs(output.name for output in request.outputs)
    return model.signature.check_inputs(decode_request(request)), outputs


def _respond(
    model: LoadedModel, request: oip.ModelInferRequest, arrays: Arrays, outputs: Sequence[TensorSpec]
) -> oip.ModelInferResponse:
    """Raw when the request was raw; `encode_response` knows what must be raw in any case."""
    response = _empty_response(model, request)
    tensors = [Tensor(spec.name, spec.datatype, arrays[spec.name]) for spec in outputs]
    encode_response(response, tensors, raw=bool(request.raw_input_contents))
    return response


def _empty_response(model: LoadedModel, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    return oip.ModelInferResponse(model_name=model.spec.name, model_version=model.spec.version, id=request.id)


def _sentence(error: Exception) -> str:
    if isinstance(error, MeshError):
        return error.message
    request = context.current()
    log.error("stream_request_failed", exc_info=error)
    return f"internal error; the logs have it under request id {request.request_id if request else 'unknown'}"
