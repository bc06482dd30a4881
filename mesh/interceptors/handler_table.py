"""The methods that a server answers, each wrapped once, behind one generic handler.

gRPC's own ways cost more than a small request does: an interceptor runs, and wraps the handler anew, for every call;
and for every call asyncio's server waits on one future for each *registered* method, so that a service of 20 RPCs makes
all of them slower (grpcio 1.85, `_server_main_loop`). Here the look-up is one dict. Knows no method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[Any, Any]


class HandlerTable(grpc.GenericRpcHandler):
    """Stands in for a server when servicers are registered; give it to the server as its one generic handler.

    wrap: what the server's interceptor makes of a method's handler.
    """

    def __init__(self, wrap: Callable[[str, Handler], Handler]) -> None:
        self._wrap = wrap
        self._wrapped: dict[str, Handler] = {}
        self._generic_handlers: list[grpc.GenericRpcHandler] = []

    def add_generic_rpc_handlers(self, generic_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As a server's. A generic handler must have the same handler for a method whenever it is asked."""
        self._generic_handlers.extend(generic_handlers)

    def add_registered_method_handlers(self, service: str, method_handlers: Mapping[str, Handler]) -> None:
        """Called by the generated `add_…_to_server`, which has given the same ones as a generic handler before."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """The wrapped handler of a method; None for one that nobody serves."""
        return self.find(handler_call_details.method)

    def find(self, method: str) -> Handler | None:
        """As `service`, by the method's name."""
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            for generic_handler in self._generic_handlers:
                handler = generic_handler.service(_Details(method))
                if handler is not None:
                    wrapped = self._wrapped[method] = self._wrap(method, handler)
                    break
        return wrapped


@dataclass(frozen=True, slots=True)
class _Details(grpc.HandlerCallDetails):
    """A call, as far as it says which handler it wants."""

    method: str
    invocation_metadata: tuple[tuple[str, str | bytes], ...] = ()
