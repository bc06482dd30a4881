"""Client side: what every outgoing call bears of the request: id, tenant, priority, session, trace, and time left.

gRPC forwards none of these by itself. A call that no request caused (a lease renewal, a watch) goes out as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc.aio

from mesh import context, tracing

ClientCallDetails = grpc.aio.ClientCallDetails


def headers() -> dict[str, str]:
    """What a call bears of the current request: id and trace, and where they are known tenant, priority and session."""
    additions = tracing.inject()
    request = context.current()
    if request is not None:
        additions[context.REQUEST_ID_HEADER] = request.request_id
        if request.tenant:
            additions[context.TENANT_HEADER] = request.tenant
        if request.priority:
            additions[context.PRIORITY_HEADER] = str(request.priority)
        if request.session:
            additions[context.SESSION_HEADER] = request.session
    return additions


def shorter(timeout_s: float | None) -> float | None:
    """`timeout_s`, or what is left of the current request's deadline, whichever is less; None when there is neither."""
    remaining_s = context.remaining_s()
    if timeout_s is None or remaining_s is None:
        return remaining_s if timeout_s is None else timeout_s
    return min(timeout_s, remaining_s)


def with_context(details: ClientCallDetails) -> ClientCallDetails:
    """`details` with the current request's id, trace and deadline; a timeout that is already shorter stays."""
    metadata = grpc.aio.Metadata(*(tuple(details.metadata) if details.metadata else ()))
    for name, value in headers().items():
        if metadata.get(name) is None:
            metadata.add(name, value)
    return ClientCallDetails(
        method=details.method,
        timeout=shorter(details.timeout),
        metadata=metadata,
        credentials=details.credentials,
        wait_for_ready=details.wait_for_ready,
    )


# The request and response types are the RPC's own: nothing here looks at them.
Continuation = Callable[[ClientCallDetails, Any], Any]


class ContextUnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(with_context(client_call_details), request)


class ContextUnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(with_context(client_call_details), request)


class ContextStreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(with_context(client_call_details), request_iterator)


class ContextStreamStream(grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self, continuation: Continuation, client_call_details: ClientCallDetails, request_iterator: Any
    ) -> Any:
        return await continuation(with_context(client_call_details), request_iterator)
