"""Server side: request context, span, metrics, load report and errors around every handler.

A servicer method raises MeshError, or lets the AioRpcError of a next hop through; here it becomes the status on the
wire. Anything else is a bug: logged whole with the request id, and sent as INTERNAL with the id only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import grpc.aio
from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from mesh import context, tracing
from mesh.errors import ClientCancelled, InvalidInput, MeshError
from mesh.interceptors import error_trailers
from mesh.interceptors.write_watch import WriteWatch
from mesh.load_meter import LoadMeter
from mesh.load_report import TRAILER
from mesh.logs import get_logger
from mesh.metrics import RpcMetrics

log = get_logger(__name__)
_tracer = tracing.tracer(__name__)

# Health checks, reflection and leases are many and tell nothing: no span for them.
# The calls of an Exchange have spans of their own.
_UNTRACED = (
    "/grpc.health.",
    "/grpc.reflection.",
    "/mesh.v1.RegistryService/RenewLease",
    "/mesh.v1.MultiplexService/",
)
# How long a message may wait for its client to read it. A client without a deadline could hold its place for ever.
WRITE_TIMEOUT_S = 120.0

_CODES = {code.value[0]: code for code in grpc.StatusCode}

# Answers that say more of the server than of the request: its load report counts them as errors.
_OUR_FAULT = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)

# The status travels in a header, of which peers take 8 KiB for sure, and each byte that is not ASCII becomes three
# there. A sentence may quote a name that a stranger chose, so its length is not ours.
_MAX_MESSAGE_BYTES = 2048

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[Any, Any]
    ServicerContext = grpc.aio.ServicerContext[Any, Any]


class ServerInterceptor:
    """Wraps the handlers of all four kinds of RPC, once for all calls (mesh/interceptors/handler_table.py)."""

    def __init__(self, metrics: RpcMetrics, load: LoadMeter, write_timeout_s: float = WRITE_TIMEOUT_S) -> None:
        self._metrics = metrics
        self._load = load
        self._write_timeout_s = write_timeout_s

    def wrap(self, method: str, handler: Handler) -> Handler:
        """A handler of the same kind that does for every call what this interceptor is for."""
        make, behaviour = _kind_of(handler)
        described = _Method(method, self._metrics, self._load)
        wrap = self._streaming if handler.response_streaming else self._unary
        deserialize = handler.request_deserializer
        if deserialize is not None and not handler.request_streaming:
            deserialize = _or_malformed(deserialize)
        return make(wrap(described, behaviour), deserialize, handler.response_serializer)

    def _unary(self, method: _Method, behaviour: Callable[..., Any]) -> Any:
        async def handle(request: Any, servicer_context: ServicerContext) -> Any:
            call = _Call(method, servicer_context)
            with call:
                try:
                    call.check()
                    response = await behaviour(_well_formed(request), servicer_context)
                    call.report_load()
                    return response
                except (Exception, asyncio.CancelledError) as error:
                    code, message, trailers = call.failed(error)
            return await servicer_context.abort(code, message, trailers)

        return handle

    def _streaming(self, method: _Method, behaviour: Callable[..., Any]) -> Any:
        # The read/write form, not a generator: a generator that gRPC drops on a cancel would be closed later, by the
        # garbage collector, in another context.
        async def handle(request: Any, servicer_context: ServicerContext) -> None:
            call = _Call(method, servicer_context)
            with call:
                try:
                    call.check()
                    responses = behaviour(_well_formed(request), servicer_context)
                    if not hasattr(responses, "__aiter__"):
                        await responses
                        call.report_load()
                        return
                    with WriteWatch(self._write_timeout_s) as watch:
                        async with aclosing(responses):
                            async for response in responses:
                                watch.begin()
                                await _write(servicer_context, response)
                                watch.end()
                    call.report_load()
                    return
                except (Exception, asyncio.CancelledError) as error:
                    code, message, trailers = call.failed(error)
            await servicer_context.abort(code, message, trailers)

        return handle


@dataclass(frozen=True, slots=True)
class _Malformed:
    """Stands for a request whose bytes cannot be parsed, so that it becomes an error where all errors do.

    gRPC itself would answer UNKNOWN, with the name of a class.
    """

    reason: str


def _or_malformed(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def deserialize_or_say_why(content: bytes) -> Any:
        try:
            return deserialize(content)
        except Exception as error:  # protobuf's error is of another class in each of its implementations
            return _Malformed(str(error))

    return deserialize_or_say_why


def _well_formed(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise InvalidInput(f"the request is malformed, or a string in it is not UTF-8: {request.reason}")
    return request


async def _write(servicer_context: ServicerContext, response: Any) -> None:
    try:
        await servicer_context.write(response)
    except grpc.aio.InternalError:
        # gRPC's word for a write to a client that has left, when the write waited for that client to read.
        raise ClientCancelled("the client went away before its answer was complete") from None


def _kind_of(handler: Handler) -> tuple[Callable[..., Handler], Callable[..., Any]]:
    """The function that makes a handler of this kind, and the behaviour inside it."""
    make, behaviour = {
        (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
        (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
        (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
    }[handler.request_streaming, handler.response_streaming]
    return cast("Callable[..., Handler]", make), cast("Callable[..., Any]", behaviour)


class _Method:
    """What is the same for all calls of one method."""

    def __init__(self, name: str, metrics: RpcMetrics, load: LoadMeter) -> None:
        self.name = name
        self.metrics = metrics.of(name)
        self.is_traced = not name.startswith(_UNTRACED)
        self.load = load if self.is_traced else None
        # Set up once, before a server has handlers.
        self.is_recorded = tracing.is_recording()
        self.service, _, self.rpc = name.lstrip("/").partition("/")


class _Call:
    """One RPC from its start to its end: its request context, span and metrics hold inside `with`."""

    __slots__ = (
        "_code",
        "_context_token",
        "_method",
        "_refusal",
        "_request",
        "_servicer_context",
        "_span",
        "_spanning",
        "_started",
    )

    def __init__(self, method: _Method, servicer_context: ServicerContext) -> None:
        self._method = method
        self._servicer_context = servicer_context
        self._code = grpc.StatusCode.OK
        self._span: trace.Span = trace.INVALID_SPAN
        self._spanning: AbstractContextManager[Any] | None = None
        self._refusal: InvalidInput | None = None

    def __enter__(self) -> None:
        # Only the few headers that are asked for: building a mapping of all costs more than the look.
        request_id = trace_parent = tenant = priority = session = None
        metadata = self._servicer_context.invocation_metadata() or ()
        for name, value in metadata:
            if name == context.REQUEST_ID_HEADER:
                request_id = value
            elif name == tracing.PARENT_HEADER:
                trace_parent = value
            elif name == context.TENANT_HEADER:
                tenant = value
            elif name == context.PRIORITY_HEADER:
                priority = value
            elif name == context.SESSION_HEADER:
                session = value
        left_s = self._servicer_context.time_remaining()
        self._request = context.RequestContext(
            context.request_id_from(request_id if isinstance(request_id, str) else None),
            None if left_s is None else time.monotonic() + left_s,
            partial(_text_entry, metadata),
            session=context.session_from(session if isinstance(session, str) else None),
        )
        if tenant is not None or priority is not None:
            self._take_standing(tenant, priority)
        self._started = time.perf_counter()
        self._method.metrics.began()
        if self._method.load is not None:
            self._method.load.began()
        self._context_token = context.enter(self._request)
        if self._method.is_traced and (trace_parent is not None or self._method.is_recorded):
            self._spanning = self._begin_span({name: value for name, value in metadata if isinstance(value, str)})
            self._span = self._spanning.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._code = grpc.StatusCode.CANCELLED
        try:
            if self._spanning is not None:
                self._span.set_attribute("rpc.grpc.status_code", self._code.value[0])
                self._spanning.__exit__(kind, error, traceback)
        finally:
            context.leave(self._context_token)
            self._method.metrics.ended(self._code.name, time.perf_counter() - self._started)
            if self._method.load is not None:
                self._method.load.ended(is_failed=self._code in _OUR_FAULT)
            if self._code is not grpc.StatusCode.OK:
                request_id = self._request.request_id
                log.info("rpc_failed", method=self._method.name, code=self._code.name, request_id=request_id)

    def check(self) -> None:
        """Raises InvalidInput when a header of the call is wrong."""
        if self._refusal is not None:
            raise self._refusal

    def _take_standing(self, tenant: str | bytes | None, priority: str | bytes | None) -> None:
        """For whom the request is and how urgent. gRPC lets only headers that end in -bin be bytes."""
        try:
            self._request = dataclasses.replace(
                self._request,
                tenant=context.tenant_from(tenant if isinstance(tenant, str) else None),
                priority=context.priority_from(priority if isinstance(priority, str) else None),
            )
        except InvalidInput as error:
            self._refusal = error

    def _begin_span(self, metadata: dict[str, str]) -> AbstractContextManager[trace.Span]:
        """Continues the caller's trace, also where spans are not recorded: it goes on to the next hop."""
        method = self._method
        attributes = {
            "rpc.system": "grpc",
            "rpc.service": method.service,
            "rpc.method": method.rpc,
            "meshserve.request_id": self._request.request_id,
        }
        return _tracer.start_as_current_span(
            f"{method.service}/{method.rpc}",
            tracing.extract(metadata),
            SpanKind.SERVER,
            attributes,
            record_exception=False,
            set_status_on_exception=False,
        )

    def report_load(self) -> None:
        """Say with the trailing metadata how full this server is: the call ends well."""
        trailers = self._load_trailers()
        if trailers:
            self._servicer_context.set_trailing_metadata(trailers)

    def _load_trailers(self) -> tuple[tuple[str, str | bytes], ...]:
        load = self._method.load
        report = None if load is None else load.trailer()
        return () if report is None else ((TRAILER, report),)

    def failed(self, error: BaseException) -> tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]:
        """Status, sentence and trailing metadata for an exception of the handler. Raises it again when the call itself
        was cancelled."""
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise error
        self._code, message = _status_of(error, self._method.name)
        message = message.encode("utf-8", "replace")[:_MAX_MESSAGE_BYTES].decode("utf-8", "ignore")
        self._span.set_status(Status(StatusCode.ERROR, message))
        # The id also tells a caller that this process answered, and not a broken way to it (mesh/pool.py).
        request = context.current()
        trailers = self._load_trailers()
        if request is not None:
            trailers += ((context.REQUEST_ID_HEADER, request.request_id),)
        if isinstance(error, MeshError):
            trailers += error_trailers.trailers_of(error)
        elif isinstance(error, grpc.aio.AioRpcError):
            trailers += error_trailers.passed_on(error.trailing_metadata() or ())
        return self._code, message, trailers


def _text_entry(metadata: Iterable[tuple[str, str | bytes]], name: str) -> str | None:
    """The first entry of that name; those whose values are bytes are not looked at."""
    return next((value for key, value in metadata if key == name and isinstance(value, str)), None)


def _status_of(error: BaseException, method: str) -> tuple[grpc.StatusCode, str]:
    if isinstance(error, asyncio.CancelledError):
        # Nobody cancelled this call, but something that it waited for: let out, it would leave the client hanging
        # (grpc/grpc#29248).
        return grpc.StatusCode.CANCELLED, "the request was cancelled on its way"
    if isinstance(error, MeshError):
        return _CODES[error.code.number], error.message
    if isinstance(error, grpc.aio.AioRpcError):
        return error.code(), error.details() or error.code().name
    request = context.current()
    request_id = request.request_id if request else "unknown"
    log.error("unexpected_error", method=method, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error; the logs have it under request id {request_id}"
