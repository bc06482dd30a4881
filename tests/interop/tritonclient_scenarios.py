"""What a stock tritonclient does with a mesh; run as a program: its stubs and ours cannot live in one process.

Usage: tritonclient_scenarios.py HOST:PORT. Prints one JSON object of what the client saw.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

SETOSA, VIRGINICA = [5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]


def iris(client: triton.InferenceServerClient) -> dict[str, Any]:
    tensor = triton.InferInput("input", [2, 4], "FP64")
    tensor.set_data_from_numpy(np.array([SETOSA, VIRGINICA]))
    result = client.infer("iris", [tensor], request_id="r-7", outputs=[triton.InferRequestedOutput("label")])
    response = result.get_response()
    return {
        "label": result.as_numpy("label").tolist(),
        "outputs": [output.name for output in response.outputs],
        "id": response.id,
        "version": response.model_version,
    }


def text_inputs(text: str, stream: bool) -> list[triton.InferInput]:
    parameters = json.dumps({"temperature": 0, "max_tokens": 12})
    inputs = []
    for name, datatype, value in (
        ("text_input", "BYTES", np.array([text.encode()], dtype=np.object_)),
        ("stream", "BOOL", np.array([stream])),
        ("sampling_parameters", "BYTES", np.array([parameters.encode()], dtype=np.object_)),
    ):
        tensor = triton.InferInput(name, [1], datatype)
        tensor.set_data_from_numpy(value)
        inputs.append(tensor)
    return inputs


def text_of(result: triton.InferResult) -> str:
    return b"".join(result.as_numpy("text_output").ravel().tolist()).decode()


def streamed(client: triton.InferenceServerClient) -> dict[str, Any]:
    """A good request, a bad one, a good one again, on one stream."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("smollm2", text_inputs("Two plus two is", stream=True), enable_empty_final_response=True)
    pieces = []
    while True:
        result, error = answers.get(timeout=60)
        if error:
            raise error
        pieces.append(text_of(result) if result.get_response().outputs else "")
        if result.get_response().parameters["triton_final_response"].bool_param:
            break
    client.async_stream_infer("nobody", text_inputs("x", stream=True))
    _, failure = answers.get(timeout=60)
    tensor = triton.InferInput("input", [1, 4], "FP64")
    tensor.set_data_from_numpy(np.array([SETOSA]))
    client.async_stream_infer("iris", [tensor])
    result, error = answers.get(timeout=60)
    client.stop_stream()
    return {
        "pieces": pieces,
        "failure": str(failure),
        "label_after": result.as_numpy("label").tolist() if result else str(error),
    }


def failure(call: Any) -> str:
    try:
        call()
    except InferenceServerException as error:
        return str(error.status())
    return "no error"


def bad_input(client: triton.InferenceServerClient) -> dict[str, str]:
    wrong_shape = triton.InferInput("input", [1, 3], "FP64")
    wrong_shape.set_data_from_numpy(np.zeros((1, 3)))
    wrong_type = triton.InferInput("input", [1, 4], "INT32")
    wrong_type.set_data_from_numpy(np.zeros((1, 4), dtype=np.int32))
    good = triton.InferInput("input", [1, 4], "FP64")
    good.set_data_from_numpy(np.zeros((1, 4)))
    return {
        "unknown model": failure(lambda: client.infer("nobody", [good])),
        "unknown version": failure(lambda: client.infer("iris", [good], model_version="99")),
        "wrong shape": failure(lambda: client.infer("iris", [wrong_shape])),
        "wrong datatype": failure(lambda: client.infer("iris", [wrong_type])),
        "load of an unknown model": failure(lambda: client.load_model("nobody")),
    }


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1])
    seen = {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "models ready": [client.is_model_ready(name) for name in ("iris", "smollm2", "nobody")],
        "inputs": [tensor.name for tensor in client.get_model_metadata("iris").inputs],
        "config": client.get_model_config("smollm2").config.model_transaction_policy.decoupled,
        "index": sorted(model.name for model in client.get_model_repository_index().models),
        "iris": iris(client),
        "text": text_of(client.infer("smollm2", text_inputs("Two plus two is", stream=False))),
        "stream": streamed(client),
        "bad input": bad_input(client),
        "statistics": client.get_inference_statistics("iris").model_stats[0].inference_stats.success.count,
    }
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
