"""What the failure of one attempt means: is it the request's, is it this replica's, or did nobody hear of it?

What a healthy server says of a request is final. Our servers put the request's id on every error that they answer, a
broken way to them cannot; what gRPC's core says itself of a broken way is known by its words. A server that is not
ours answers without an id, and what it says is final too, unless it is UNAVAILABLE.
"""

from __future__ import annotations

from enum import Enum, auto

import grpc
import grpc.aio

from mesh import context
from mesh.channel import to_mesh_error
from mesh.endpoints import Kind, Target
from mesh.errors import MeshError, Overloaded, Unavailable
from mesh.interceptors.error_trailers import CLASS, FIELD
from mesh.multiplex.channel import UNREADABLE
from mesh.v1.registry_pb2 import ServiceKind

_CONNECTING_FAILED = "failed to connect to all addresses"
# Of gRPC's core (1.80): a stream that ended without a status, was reset, or has an HTTP status instead. Of our channel:
# an answer that cannot be parsed.
_BROKEN_WAY = ("Stream removed", "Received RST_STREAM", "Received http2 header", UNREADABLE)
_BROKEN_CODES = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.UNIMPLEMENTED)
_MODEL_FIELDS = ("model", "model_name")


class Failure(Enum):
    """What an attempt's error says."""

    FINAL = auto()  # of the request, or that its time is up: no replica would say otherwise
    BUSY = auto()  # a healthy replica cannot take it now; another may
    WRONG_REPLICA = auto()  # it does not have the model that it is said to serve
    BROKEN = auto()  # what came is no answer
    UNREACHABLE = auto()  # the way broke; the replica may have been at work on it
    NEVER_SENT = auto()  # there was no connection

    @property
    def blames_replica(self) -> bool:
        return self not in (Failure.FINAL, Failure.BUSY)

    @property
    def is_silence(self) -> bool:
        """No word came from the replica; it may only be starting."""
        return self in (Failure.UNREACHABLE, Failure.NEVER_SENT)


def failure_of(error: grpc.aio.AioRpcError, target: Target) -> Failure:
    """target: what was asked for, of a replica that is said to serve it."""
    if is_answer(error):
        return _answered(error, target)
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return Failure.NEVER_SENT if details.startswith(_CONNECTING_FAILED) else Failure.UNREACHABLE
    if code in _BROKEN_CODES and details.startswith(_BROKEN_WAY):
        return Failure.BROKEN
    return Failure.FINAL


def _answered(error: grpc.aio.AioRpcError, target: Target) -> Failure:
    code = error.code()
    if code is grpc.StatusCode.UNAVAILABLE:
        return Failure.BUSY
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and _trailer(error, CLASS) == Overloaded.__name__:
        return Failure.BUSY
    if code is grpc.StatusCode.NOT_FOUND:
        field = _trailer(error, FIELD)
        if field in _MODEL_FIELDS or (target.version and field == "model_version"):
            return Failure.WRONG_REPLICA
    return Failure.FINAL


def is_answer(error: grpc.aio.AioRpcError) -> bool:
    """True when one of our servers said it."""
    return _trailer(error, context.REQUEST_ID_HEADER) is not None


def as_mesh_error(error: grpc.aio.AioRpcError, target: Target) -> MeshError:
    """What the caller of the pool is told of the last attempt."""
    failure = failure_of(error, target)
    service = service_name(target.kind)
    if failure.is_silence:
        return Unavailable(f"the {service} for '{target.deployment}' cannot be reached: {error.details()}")
    if failure is Failure.BROKEN:
        return Unavailable(f"the {service} for '{target.deployment}' gives broken answers: {error.details()}")
    return to_mesh_error(error)


def service_name(kind: Kind) -> str:
    """The service in words: "predictor"."""
    return ServiceKind.Name(kind).removeprefix("SERVICE_KIND_").lower()


def _trailer(error: grpc.aio.AioRpcError, wanted: str) -> str | bytes | None:
    return next((value for name, value in error.trailing_metadata() or () if name == wanted), None)
