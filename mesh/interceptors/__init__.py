"""The chains of interceptors, each in one list, with the reason for each place."""

from __future__ import annotations

import grpc.aio

from mesh.interceptors.client import (
    ContextStreamStream,
    ContextStreamUnary,
    ContextUnaryStream,
    ContextUnaryUnary,
)
from mesh.interceptors.handler_table import HandlerTable
from mesh.interceptors.server import ServerInterceptor
from mesh.load_meter import LoadMeter
from mesh.metrics import RpcMetrics


def handler_table(metrics: RpcMetrics, load: LoadMeter) -> HandlerTable:
    """What a server's services are registered with; it wraps every handler.

    One interceptor does it all, in this order: request context first (all others log with the id), then the span
    (so that errors are recorded on it), then metrics and load (they must see the final code), errors innermost (they
    turn exceptions into that code).
    """
    return HandlerTable(ServerInterceptor(metrics, load).wrap)


def client_chain() -> list[grpc.aio.ClientInterceptor]:
    """What wraps every outgoing call: request id, trace context, and what is left of the deadline."""
    return [ContextUnaryUnary(), ContextUnaryStream(), ContextStreamUnary(), ContextStreamStream()]
