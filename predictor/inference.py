"""OIP inference: a request message becomes arrays, a runtime answers, the arrays become a response message.

Knows the protocol's messages and rules, not gRPC: the servicer passes messages through, and turns what is raised here
into a status. On a stream a bad request is answered with a message instead, and the stream goes on.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from google.protobuf.message import DecodeError

from mesh import context
from mesh.errors import InvalidInput, MeshError
from mesh.logs import get_logger
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import MAX_RANK, Tensor, decode_request, encode_outputs
from predictor.infer_wire import InferRequest, InferResponse, parsed
from predictor.loader import LoadedModel
from predictor.ordered_stream import answers_in_order
from predictor.repository import ModelRepository
from predictor.runtimes.base import Arrays, DecoupledRuntime, TensorSpec
from predictor.statistics import ModelStatistics

log = get_logger(__name__)

# Triton's parameters for streams: a client asks for a mark on the last answer, since only the server knows which it is.
ASK_FINAL = "triton_enable_empty_final_response"
IS_FINAL = "triton_final_response"

# More elements than these, where each is touched by itself, would hold up the event loop: they are read in a thread.
MANY_ELEMENTS = 1 << 14

# A sentence may quote what a stranger sent, so its length is not ours. In a status the interceptors cut it.
MAX_SENTENCE_CHARS = 2048


class Inference:
    """Answers ModelInferRequests with the models of `repository`."""

    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def infer(self, request: InferRequest) -> InferResponse:
        """The one answer. Raises the MeshErrors of the contract's outcomes table."""
        message = request.message
        async with self._repository.hold(message.model_name, message.model_version) as model:
            return await _infer(model, request)

    async def infer_stream(
        self, requests: AsyncIterator[oip.ModelInferRequest]
    ) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
        """The answers to a stream of requests, in order, with those of a decoupled model in the place of its request.

        Requests are worked on side by side, so that they can be joined in batches.
        """
        try:
            async with aclosing(answers_in_order(requests, self._answers)) as answers:
                async for response in answers:
                    yield response
        except DecodeError as error:
            raise InvalidInput(f"a request is malformed, or a string in it is not UTF-8: {error}") from None

    async def _answers(self, message: oip.ModelInferRequest) -> AsyncGenerator[oip.ModelStreamInferResponse, None]:
        try:
            async with self._repository.hold(message.model_name, message.model_version) as model:
                request = parsed(message)
                marks_final = ASK_FINAL in message.parameters and message.parameters[ASK_FINAL].bool_param
                if model.decoupled is not None:
                    answers = _infer_decoupled(model, model.decoupled, request, marks_final)
                    async with aclosing(answers):
                        async for response in answers:
                            yield oip.ModelStreamInferResponse(infer_response=response)
                    return
                response = (await _infer(model, request)).whole()
                if marks_final:
                    response.parameters[IS_FINAL].bool_param = True
                yield oip.ModelStreamInferResponse(infer_response=response)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            # Not this request was cancelled, but something that it waited for.
            yield _error_message(message, "the request was cancelled on its way")
        except Exception as error:  # one bad request must not end the stream for the others
            yield _error_message(message, _sentence(error))


async def _infer(model: LoadedModel, request: InferRequest) -> InferResponse:
    with model.statistics.request() as watch:
        is_long = _is_long(request)
        inputs, outputs = await asyncio.to_thread(_read, model, request) if is_long else _read(model, request)
        watch.batch_size = model.signature.num_rows(inputs)
        watch.inputs_read()
        arrays = await model.batcher.infer(inputs, watch)
        watch.inferred()
        if any(arrays[spec.name].size > MANY_ELEMENTS for spec in outputs):
            response = await asyncio.to_thread(_respond, model, request, arrays, outputs)
        else:
            response = _respond(model, request, arrays, outputs)
        watch.outputs_written()
        return response


async def _infer_decoupled(
    model: LoadedModel, runtime: DecoupledRuntime, request: InferRequest, marks_final: bool
) -> AsyncGenerator[oip.ModelInferResponse, None]:
    statistics = model.statistics
    with statistics.request() as watch:
        inputs, outputs = _read(model, request)
        watch.batch_size = model.signature.num_rows(inputs)
        watch.inputs_read()
        number = 0
        started_ns = statistics.now_ns()
        try:
            async with aclosing(runtime.infer_stream(inputs)) as answers:
                async for arrays in answers:
                    inferred_ns = statistics.now_ns()
                    response = _respond(model, request, arrays, outputs).whole()
                    if marks_final:
                        response.parameters[IS_FINAL].bool_param = False
                    _answered(statistics, number, started_ns, inferred_ns)
                    yield response
                    number += 1
                    started_ns = statistics.now_ns()
        except (asyncio.CancelledError, GeneratorExit):
            statistics.answer(number).cancel.add(statistics.now_ns() - started_ns)
            raise
        except Exception:
            statistics.answer(number).fail.add(statistics.now_ns() - started_ns)
            raise
        watch.inferred()
        statistics.executed(watch.batch_size, watch.infer_ns)
    if marks_final:
        last = _empty_response(model, request.message)
        last.parameters[IS_FINAL].bool_param = True
        yield last


def _answered(statistics: ModelStatistics, number: int, started_ns: int, inferred_ns: int) -> None:
    answer, ended_ns = statistics.answer(number), statistics.now_ns()
    answer.compute_infer.add(inferred_ns - started_ns)
    answer.compute_output.add(ended_ns - inferred_ns)
    answer.success.add(ended_ns - started_ns)


def _is_long(request: InferRequest) -> bool:
    """Whether reading takes many steps in Python. The shapes are what the request says, and not checked yet."""
    is_raw = bool(request.raw)
    return any(
        (tensor.datatype == "BYTES" or not is_raw)
        and len(tensor.shape) <= MAX_RANK
        and math.prod(tensor.shape) > MANY_ELEMENTS
        for tensor in request.message.inputs
    )


def _read(model: LoadedModel, request: InferRequest) -> tuple[Arrays, Sequence[TensorSpec]]:
    message, signature = request.message, model.signature
    outputs = signature.wanted_outputs([output.name for output in message.outputs])
    return signature.check_inputs(decode_request(message, request.raw)), outputs


def _respond(model: LoadedModel, request: InferRequest, arrays: Arrays, outputs: Sequence[TensorSpec]) -> InferResponse:
    """Raw when the request was raw; `encode_outputs` knows what must be raw in any case."""
    message = _empty_response(model, request.message)
    tensors = [Tensor(spec.name, spec.datatype, arrays[spec.name]) for spec in outputs]
    return InferResponse(message, encode_outputs(message, tensors, raw=bool(request.raw)))


def _empty_response(model: LoadedModel, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
    return oip.ModelInferResponse(model_name=model.spec.name, model_version=model.spec.version, id=request.id)


def _error_message(request: oip.ModelInferRequest, sentence: str) -> oip.ModelStreamInferResponse:
    names = oip.ModelInferResponse(model_name=request.model_name, model_version=request.model_version, id=request.id)
    return oip.ModelStreamInferResponse(error_message=sentence[:MAX_SENTENCE_CHARS], infer_response=names)


def _sentence(error: Exception) -> str:
    if isinstance(error, MeshError):
        return error.message
    request = context.current()
    log.error("stream_request_failed", exc_info=error)
    return f"internal error; the logs have it under request id {request.request_id if request else 'unknown'}"
