"""What each failure of an attempt is taken for."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from mesh.attempt_failure import Failure, as_mesh_error, failure_of, service_name
from mesh.endpoints import Target
from mesh.errors import (
    DiskFull,
    InvalidInput,
    MeshError,
    MessageTooLarge,
    ModelNotFound,
    ModelNotReady,
    NotFound,
    Overloaded,
    Unavailable,
)
from mesh.interceptors.error_trailers import trailers_of
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, SERVICE_KIND_PREDICTOR

ANY_VERSION = Target(SERVICE_KIND_PREDICTOR, "iris")
VERSION_1 = Target(SERVICE_KIND_PREDICTOR, "iris", "1")
CODES = {code.value[0]: code for code in grpc.StatusCode}


def raw(code: grpc.StatusCode, details: str, **trailers: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailers.items()), details=details)


def answered(error: MeshError) -> grpc.aio.AioRpcError:
    """As one of our servers says it."""
    trailers = {"x-request-id": "r", **dict(trailers_of(error))}
    return raw(CODES[error.code.number], error.message, **trailers)


@pytest.mark.parametrize(
    ("error", "target", "failure"),
    [
        (InvalidInput("shape"), ANY_VERSION, Failure.FINAL),
        (MessageTooLarge("big"), ANY_VERSION, Failure.FINAL),
        (NotFound("no such prompt", field="prompt"), ANY_VERSION, Failure.FINAL),
        (Overloaded("full"), ANY_VERSION, Failure.BUSY),
        (Unavailable("ending"), ANY_VERSION, Failure.BUSY),
        (ModelNotReady("loading"), ANY_VERSION, Failure.BUSY),
        (DiskFull("full"), ANY_VERSION, Failure.BUSY),
        (ModelNotFound("not deployed", field="model_name"), ANY_VERSION, Failure.WRONG_REPLICA),
        (ModelNotFound("not deployed", field="model"), ANY_VERSION, Failure.WRONG_REPLICA),
        # A version that a client asks for inside its request may exist nowhere; one of the target's is in the view.
        (ModelNotFound("no version 9", field="model_version"), ANY_VERSION, Failure.FINAL),
        (ModelNotFound("no version 1", field="model_version"), VERSION_1, Failure.WRONG_REPLICA),
    ],
)
def test_answers_of_our_servers(error: MeshError, target: Target, failure: Failure) -> None:
    assert failure_of(answered(error), target) is failure
    told = as_mesh_error(answered(error), target)
    assert (type(told), told.message) == (type(error), error.message)


@pytest.mark.parametrize(
    ("code", "details", "failure"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses; last error: …", Failure.NEVER_SENT),
        ("UNAVAILABLE", "Socket closed", Failure.UNREACHABLE),
        ("INTERNAL", "Received RST_STREAM with error code 2", Failure.BROKEN),
        ("UNKNOWN", "Stream removed (Data frame with END_STREAM flag received)", Failure.BROKEN),
        ("UNIMPLEMENTED", "Received http2 header with status: 404", Failure.BROKEN),
        ("INTERNAL", "Error parsing the answer: …", Failure.BROKEN),
        # Of a server that is not ours: a request that it cannot read must not put it out of use.
        ("INTERNAL", "Exception deserializing request!", Failure.FINAL),
        ("UNKNOWN", "Unexpected <class 'ValueError'>", Failure.FINAL),
        ("UNIMPLEMENTED", "Method not found!", Failure.FINAL),
        ("NOT_FOUND", "unknown model", Failure.FINAL),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", Failure.FINAL),
        ("CANCELLED", "the channel was closed", Failure.FINAL),
    ],
)
def test_what_comes_without_our_servers_word(code: str, details: str, failure: Failure) -> None:
    error = raw(grpc.StatusCode[code], details)

    assert failure_of(error, ANY_VERSION) is failure
    assert isinstance(as_mesh_error(error, ANY_VERSION), Unavailable) is failure.blames_replica


def test_only_silence_may_be_a_replica_that_starts() -> None:
    assert {failure for failure in Failure if failure.is_silence} == {Failure.UNREACHABLE, Failure.NEVER_SENT}
    assert {failure for failure in Failure if not failure.blames_replica} == {Failure.FINAL, Failure.BUSY}


def test_services_are_named_in_words() -> None:
    assert service_name(SERVICE_KIND_EXPLAINER) == "explainer"
