"""Does a server answer, and right? Asked until it does, before anything is measured. Knows no figures."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable

import grpc
import numpy as np
import orjson

from bench.oip.message import MODEL_INFER, REST_PATH, Message
from mesh.oip import open_inference_pb2 as oip

_RETRY_EVERY_S = 0.1
_MAX_MESSAGE_BYTES = 64 << 20


class NoAnswer(Exception):
    """The server did not answer in time, or its answer is not the request's tensor. The message says which."""


def wait_for_grpc(port: int, message: Message, timeout_s: float, *, is_checked: bool = True) -> int:
    """Bytes of the response message to `message`, once the server gives it. Raises NoAnswer.

    is_checked: the answer must hold the request's tensor.
    """
    options = [("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        infer = channel.unary_unary(MODEL_INFER)

        def ask() -> int:
            response: bytes = infer(message.request, timeout=timeout_s)
            if is_checked:
                _check_grpc(message, response)
            return len(response)

        return _until_it_answers(ask, grpc.RpcError, timeout_s)


def wait_for_rest(port: int, message: Message, timeout_s: float) -> int:
    """Bytes of the response body, as `wait_for_grpc`."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{REST_PATH}",
        data=message.json_request,
        headers={"content-type": "application/json"},
        method="POST",
    )

    def ask() -> int:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            body: bytes = answer.read()
        _check_rest(message, body)
        return len(body)

    return _until_it_answers(ask, OSError, timeout_s)


def _until_it_answers(ask: Callable[[], int], not_yet: type[Exception], timeout_s: float) -> int:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return ask()
        except not_yet as error:
            if time.monotonic() > deadline:
                raise NoAnswer(f"no answer within {timeout_s:g} s: {error}") from error
        time.sleep(_RETRY_EVERY_S)


def _check_grpc(message: Message, response: bytes) -> None:
    sent = oip.ModelInferRequest.FromString(message.request).raw_input_contents[0]
    answer = oip.ModelInferResponse.FromString(response)
    # Not by our own decoder: some servers send empty typed contents beside the raw ones, which it refuses.
    typed = np.array(answer.outputs[0].contents.fp32_contents, dtype="<f4").tobytes()
    if sent not in (typed, *answer.raw_output_contents):
        raise NoAnswer("the answer is not the request's tensor")


def _check_rest(message: Message, body: bytes) -> None:
    sent = orjson.loads(message.json_request)["inputs"][0]["data"]
    got = orjson.loads(body)["outputs"][0]["data"]
    if not np.array_equal(sent, np.asarray(got).ravel()):
        raise NoAnswer("the answer is not the request's tensor")
