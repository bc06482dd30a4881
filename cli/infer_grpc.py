"""The same inference over gRPC: the tensors of a REST body as a `ModelInferRequest`, and the answer as a REST body."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np

from cli.data import flat
from cli.failure import Failure
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import Array, Tensor, datatype_named, decode_response, encode_request

_MAX_MESSAGE_BYTES = 64 << 20


class GrpcModels:
    """A context manager over one channel to the gateway's gRPC front at `address` ("host:port")."""

    def __init__(self, address: str, *, timeout_s: float) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> GrpcModels:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def inputs_of(self, model: str) -> list[Any]:
        """The model's inputs, as in its REST metadata. Raises Failure."""
        with self._explained():
            metadata = self._stub.ModelMetadata(oip.ModelMetadataRequest(name=model), timeout=self._timeout_s)
        return [{"name": each.name, "datatype": each.datatype} for each in metadata.inputs]

    def infer(self, model: str, tensors: list[dict[str, Any]]) -> dict[str, Any]:
        """The answer to REST tensors, as a REST body. Raises Failure."""
        request = oip.ModelInferRequest(model_name=model)
        encode_request(request, [_to_tensor(each) for each in tensors])
        with self._explained():
            response = self._stub.ModelInfer(request, timeout=self._timeout_s)
        return {
            "model_name": response.model_name,
            "model_version": response.model_version,
            "outputs": [_to_json(tensor) for tensor in decode_response(response).values()],
        }

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            # Every error of a channel is also a Call, which the type does not say.
            code, details = error.code(), error.details()
            if code is grpc.StatusCode.UNAVAILABLE and "onnect" in (details or ""):
                raise Failure(f"no gateway answers at {self._address} (gRPC)", "look at `meshserve status`") from None
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise Failure(f"no answer within {self._timeout_s:g} s", "allow more with --timeout") from None
            raise Failure(details or code.name) from None


def _to_tensor(tensor: dict[str, Any]) -> Tensor:
    name, datatype = tensor["name"], tensor["datatype"]
    elements = flat(tensor["data"])
    try:
        if datatype == "BYTES":
            array: Array = np.empty(len(elements), dtype=object)
            array[:] = [str(element).encode() for element in elements]
        else:
            array = np.array(elements, dtype=datatype_named(datatype, name).dtype)
        return Tensor(name, datatype, array.reshape(tensor["shape"]))
    except (ValueError, TypeError, OverflowError):
        raise Failure(f"--data does not fit input '{name}'", f"it takes {datatype} in rows of equal length") from None


def _to_json(tensor: Tensor) -> dict[str, Any]:
    data = [
        element.decode(errors="replace") if isinstance(element, bytes) else element
        for element in tensor.array.ravel().tolist()
    ]
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.array.shape),
        "data": data,
    }
