"""What a stock tritonclient sees of a predictor; a program, since its stubs and ours cannot live in one process.

Usage: triton_program.py HOST:PORT. Prints one JSON object.
"""

from __future__ import annotations

import json
import queue
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]])


def rows(values: Any = ROWS, datatype: str = "FP64", name: str = "input") -> list[triton.InferInput]:
    tensor = triton.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values)
    return [tensor]


def refusal(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except InferenceServerException as error:
        return [str(error.status()), str(error.message())]
    return ["OK", ""]


def streamed(client: triton.InferenceServerClient) -> list[str | None]:
    """Labels, or the error, of a good, a bad and a good request on one stream."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for inputs in (rows(), rows(name="nobody"), rows()):
        client.async_stream_infer("iris", inputs)
    seen = []
    for _ in range(3):
        result, error = answers.get(timeout=30)
        seen.append(str(error.message()) if error else str(result.as_numpy("label").tolist()))
    client.stop_stream()
    return seen


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1])
    result = client.infer("iris", rows(), request_id="r-7")
    seen = {
        "live": [client.is_server_live(), client.is_server_ready(), client.is_model_ready("iris")],
        "label": result.as_numpy("label").tolist(),
        "probabilities": result.as_numpy("probabilities").tolist(),
        "id": result.get_response().id,
        "version": result.get_response().model_version,
        "streamed": streamed(client),
        "config": client.get_model_config("iris", as_json=True)["config"],
        "metadata": client.get_model_metadata("iris", as_json=True),
        "index": client.get_model_repository_index(as_json=True),
        "requests": client.get_inference_statistics("iris", as_json=True)["model_stats"][0]["inference_stats"],
        "unknown model": refusal(lambda: client.infer("nobody", rows())),
        "wrong shape": refusal(lambda: client.infer("iris", rows(np.zeros((1, 5))))),
        "wrong datatype": refusal(lambda: client.infer("iris", rows(ROWS.astype(np.float32), "FP32"))),
        "unload": refusal(lambda: client.unload_model("iris")),
        "unloaded": refusal(lambda: client.infer("iris", rows())),
        "load": refusal(lambda: client.load_model("iris")),
        "loaded": refusal(lambda: client.infer("iris", rows())),
        "load unknown": refusal(lambda: client.load_model("nobody")),
    }
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
