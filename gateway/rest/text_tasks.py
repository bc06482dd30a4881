"""What embeddings and reranking have in common: texts go to a model as BYTES tensors, and a row comes back for each.

A model can do a task when its tensors say so: any runtime may serve it, and it is asked by plain ModelInfer, so that
the predictor joins requests, and every client of the Open Inference Protocol can ask the same. Knows no request's body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from mesh.errors import Internal, InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Array, Tensor, decode_response, encode_request

NUM_TOKENS = "num_tokens"


@dataclass(frozen=True, slots=True)
class TextTask:
    """inputs: of a model that can do it, each BYTES [n], by the request's field that it comes from.

    output: FP32 of `rank` dimensions, the first of them n. is_not: ends the sentence about a model that cannot.
    """

    inputs: Mapping[str, str]
    output: str
    rank: int
    is_not: str


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """values: FP32, one row for each text. num_tokens: of all texts together, 0 where the model does not count them."""

    values: Array
    num_tokens: int


async def run_text_task(
    task: TextTask, model: str, texts: Mapping[str, Sequence[str]], dataplane: Dataplane, exchange: Exchange
) -> TextAnswer:
    """What the model says to `texts`, which are lists of one length, by the fields of the request.

    Raises ModelNotFound, InvalidInput for a model that cannot do the task, and what the model raises, in the client's
    words.
    """
    dataplane.deployment(model, exchange)
    _check(task, model, await dataplane.metadata(model, exchange))
    request = oip.ModelInferRequest(model_name=model)
    encode_request(request, [_tensor(task.inputs[field], texts[field]) for field in texts])
    try:
        response = await dataplane.infer(request, exchange)
    except InvalidInput as error:
        raise _in_clients_words(task, error) from None
    outputs = decode_response(response)
    num_texts = len(next(iter(texts.values())))
    answer = outputs.get(task.output)
    if answer is None or answer.array.ndim != task.rank or len(answer.array) != num_texts:
        raise Internal(f"model '{model}' did not answer each of {num_texts} texts")
    counted = outputs.get(NUM_TOKENS)
    return TextAnswer(answer.array, 0 if counted is None else int(counted.array.sum()))


def _check(task: TextTask, model: str, metadata: oip.ModelMetadataResponse) -> None:
    inputs = {tensor.name for tensor in metadata.inputs if (tensor.datatype, len(tensor.shape)) == ("BYTES", 1)}
    outputs = {
        tensor.name for tensor in metadata.outputs if (tensor.datatype, len(tensor.shape)) == ("FP32", task.rank)
    }
    if not set(task.inputs.values()) <= inputs or task.output not in outputs:
        raise InvalidInput(f"model '{model}' {task.is_not}", field="model")


def _tensor(name: str, texts: Sequence[str]) -> Tensor:
    elements = np.empty(len(texts), dtype=object)
    elements[:] = [text.encode() for text in texts]
    return Tensor(name, "BYTES", elements)


def _in_clients_words(task: TextTask, error: InvalidInput) -> InvalidInput:
    """The model's error about an element of a tensor, as one about an element of the request's field."""
    name, bracket, rest = (error.field or "").partition("[")
    field = next((field for field, tensor in task.inputs.items() if tensor == name), None)
    if field is None:
        error.field = list(task.inputs)[-1]
        return error
    path = f"{field}{bracket}{rest}"
    return type(error)(error.message.replace(error.field or name, path, 1), field=path)
