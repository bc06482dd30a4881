"""The errors of the mesh, and the one table that says what each becomes on the wire.

A core raises the most specific class with a sentence that says what, which, and the limit. The class decides the
canonical gRPC code, the HTTP status and the OpenAI error type. This module knows no grpc and no HTTP library: codes
are the canonical names and numbers of google/rpc/code.proto, so every front can translate them.

    MeshError
    ├── InvalidInput            INVALID_ARGUMENT     400
    │   └── PromptTooLong       INVALID_ARGUMENT     400
    ├── Unauthenticated         UNAUTHENTICATED      401
    ├── PermissionDenied        PERMISSION_DENIED    403
    ├── NotFound                NOT_FOUND            404
    │   └── ModelNotFound       NOT_FOUND            404
    ├── Conflict                ABORTED              409
    ├── MessageTooLarge         RESOURCE_EXHAUSTED   413
    ├── Overloaded              RESOURCE_EXHAUSTED   429
    ├── ClientCancelled         CANCELLED            499
    ├── Internal                INTERNAL             500
    ├── Unsupported             UNIMPLEMENTED        501
    ├── Unavailable             UNAVAILABLE          503
    │   ├── ModelNotReady       UNAVAILABLE          503
    │   │   └── ModelTooLarge   UNAVAILABLE          503
    │   └── DiskFull            UNAVAILABLE          503
    ├── CorruptArtifact         FAILED_PRECONDITION  500
    └── DeadlineExceeded        DEADLINE_EXCEEDED    504
"""

from __future__ import annotations

from enum import Enum


class Code(Enum):
    """Canonical status codes: (number in google/rpc/code.proto, HTTP status, OpenAI error type)."""

    CANCELLED = (1, 499, "api_error")
    INTERNAL = (13, 500, "api_error")
    INVALID_ARGUMENT = (3, 400, "invalid_request_error")
    DEADLINE_EXCEEDED = (4, 504, "timeout_error")
    NOT_FOUND = (5, 404, "not_found_error")
    PERMISSION_DENIED = (7, 403, "permission_error")
    RESOURCE_EXHAUSTED = (8, 429, "rate_limit_error")
    FAILED_PRECONDITION = (9, 500, "api_error")
    ABORTED = (10, 409, "conflict_error")
    UNIMPLEMENTED = (12, 501, "not_implemented_error")
    UNAVAILABLE = (14, 503, "service_unavailable_error")
    UNAUTHENTICATED = (16, 401, "authentication_error")

    @property
    def number(self) -> int:
        return self.value[0]

    @property
    def http_status(self) -> int:
        return self.value[1]

    @property
    def openai_type(self) -> str:
        return self.value[2]


class MeshError(Exception):
    """Base of all errors that a caller may see. The message is one sentence, safe to send to a stranger.

    retry_after_s: when it may be worth trying again; None: nothing is known.
    """

    code: Code = Code.INTERNAL
    openai_code: str | None = None
    retry_after_s: float | None = None

    def __init__(self, message: str, *, field: str | None = None) -> None:
        # A sentence may quote what a stranger sent, as half of a surrogate pair, which no wire takes.
        message = message.encode("utf-8", "replace").decode()
        super().__init__(message)
        self.message = message
        self.field = field

    @property
    def http_status(self) -> int:
        return self.code.http_status

    @property
    def openai_type(self) -> str:
        return self.code.openai_type


class InvalidInput(MeshError):
    """A field of the request is wrong; `field` names it where one is to blame."""

    code = Code.INVALID_ARGUMENT


class PromptTooLong(InvalidInput):
    """Prompt and requested output do not fit the model's context."""

    openai_code = "context_length_exceeded"


class Unauthenticated(MeshError):
    """The caller did not say who it is, or could not prove it."""

    code = Code.UNAUTHENTICATED
    openai_code = "invalid_api_key"


class PermissionDenied(MeshError):
    """The caller is known and may not do this."""

    code = Code.PERMISSION_DENIED


class NotFound(MeshError):
    """The named thing does not exist."""

    code = Code.NOT_FOUND


class ModelNotFound(NotFound):
    """No such model, or no such version of it."""

    openai_code = "model_not_found"


class Conflict(MeshError):
    """Somebody else changed the thing first; read it again and retry."""

    code = Code.ABORTED


class Overloaded(MeshError):
    """A bounded queue is full; try again after `retry_after_s` seconds."""

    code = Code.RESOURCE_EXHAUSTED
    openai_code = "rate_limit_exceeded"

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float = 1.0) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class MessageTooLarge(MeshError):
    """The message is above the receiver's limit; sending it again cannot help."""

    code = Code.RESOURCE_EXHAUSTED

    @property
    def http_status(self) -> int:
        return 413

    @property
    def openai_type(self) -> str:
        return Code.INVALID_ARGUMENT.openai_type


class ClientCancelled(MeshError):
    """The caller went away before the answer was complete."""

    code = Code.CANCELLED


class Internal(MeshError):
    """An unexpected failure; the sentence names the request id, never a stack or a path."""

    code = Code.INTERNAL


class Unsupported(MeshError):
    """The request is well formed and asks for what this service does not do."""

    code = Code.UNIMPLEMENTED


class Unavailable(MeshError):
    """The service or the next hop cannot be reached now; another replica may answer."""

    code = Code.UNAVAILABLE

    def __init__(self, message: str, *, field: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, field=field)
        self.retry_after_s = retry_after_s


class ModelNotReady(Unavailable):
    """The model is known and is not loaded (yet)."""


class ModelTooLarge(ModelNotReady):
    """The model takes more memory than this replica may use; only another one can serve it."""


class DiskFull(Unavailable):
    """No space left for an artifact or a log; nothing half-written remains."""


class CorruptArtifact(MeshError):
    """A model file is truncated, malformed, or does not have the digest that was promised."""

    code = Code.FAILED_PRECONDITION


class DeadlineExceeded(MeshError):
    """The caller's time budget ran out."""

    code = Code.DEADLINE_EXCEEDED


_BY_NUMBER: dict[int, type[MeshError]] = {
    Code.CANCELLED.number: ClientCancelled,
    Code.INVALID_ARGUMENT.number: InvalidInput,
    Code.DEADLINE_EXCEEDED.number: DeadlineExceeded,
    Code.NOT_FOUND.number: NotFound,
    Code.PERMISSION_DENIED.number: PermissionDenied,
    Code.RESOURCE_EXHAUSTED.number: Overloaded,
    Code.FAILED_PRECONDITION.number: CorruptArtifact,
    Code.ABORTED.number: Conflict,
    Code.UNIMPLEMENTED.number: Unsupported,
    Code.UNAVAILABLE.number: Unavailable,
    Code.UNAUTHENTICATED.number: Unauthenticated,
}


_BY_NAME: dict[str, type[MeshError]] = {
    kind.__name__: kind for kind in list(globals().values()) if isinstance(kind, type) and issubclass(kind, MeshError)
}


def from_code_number(number: int, message: str, *, name: str = "", field: str | None = None) -> MeshError:
    """The error that a peer's canonical status stands for; what is not in the table is Internal.

    `name`: of the class, when the peer said it; one that is not known here or has another code does not count.
    """
    kind = _BY_NAME.get(name)
    if kind is None or kind.code.number != number:
        kind = _BY_NUMBER.get(number, Internal)
    return kind(message, field=field)
