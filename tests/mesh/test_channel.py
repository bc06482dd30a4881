"""Channels: a peer's status becomes the MeshError that the peer meant."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from mesh import errors
from mesh.channel import to_mesh_error


def rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


@pytest.mark.parametrize(
    ("code", "details", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "shape", errors.InvalidInput),
        (grpc.StatusCode.NOT_FOUND, "model", errors.NotFound),
        (grpc.StatusCode.UNAVAILABLE, "gone", errors.Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "late", errors.DeadlineExceeded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "queue full", errors.Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", errors.MessageTooLarge),
        (grpc.StatusCode.UNKNOWN, "what", errors.Internal),
        (grpc.StatusCode.DATA_LOSS, "what", errors.Internal),
    ],
)  # fmt: skip
def test_status_becomes_the_error_that_was_meant(
    code: grpc.StatusCode, details: str, expected: type[errors.MeshError]
) -> None:
    assert type(to_mesh_error(rpc_error(code, details))) is expected
