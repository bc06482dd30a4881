"""Handlers of a server: found by method, wrapped once, whoever brought them."""

from __future__ import annotations

from typing import Any, cast

import grpc
import grpc.aio

from mesh.interceptors.handler_table import HandlerTable
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server


class Wrapping:
    """Marks what it wraps, and counts."""

    def __init__(self) -> None:
        self.methods: list[str] = []

    def wrap(self, method: str, handler: Any) -> Any:
        self.methods.append(method)
        return handler


async def answer(_request: bytes, _context: Any) -> bytes:
    return b"generic"


def test_a_method_is_wrapped_once_and_an_unknown_one_is_not_kept() -> None:
    wrapping = Wrapping()
    table = HandlerTable(wrapping.wrap)
    add_LanguageModelServicer_to_server(LanguageModelServicer(), cast("grpc.aio.Server", table))

    first, second = (table.find("/mesh.v1.LanguageModel/Generate") for _ in range(2))
    unknown = [table.find(f"/mesh.v1.LanguageModel/Nothing{number}") for number in range(3)]

    assert first is not None and first is second
    assert unknown == [None] * 3
    assert wrapping.methods == ["/mesh.v1.LanguageModel/Generate"]


async def test_a_server_serves_the_first_that_has_a_method_and_knows_no_other() -> None:
    table = HandlerTable(Wrapping().wrap)
    mine = {"Score": grpc.unary_unary_rpc_method_handler(answer)}
    table.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("mesh.v1.LanguageModel", mine),))
    add_LanguageModelServicer_to_server(LanguageModelServicer(), cast("grpc.aio.Server", table))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((table,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        served = await channel.unary_unary("/mesh.v1.LanguageModel/Score")(b"", timeout=5)
        codes = []
        for method in ("/mesh.v1.LanguageModel/Nothing", "/x.Y/Z"):
            try:
                await channel.unary_unary(method)(b"", timeout=5)
            except grpc.aio.AioRpcError as error:
                codes.append(error.code())
    await server.stop(None)

    assert served == b"generic"
    assert codes == [grpc.StatusCode.UNIMPLEMENTED] * 2
