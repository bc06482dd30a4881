"""A stock gRPC client with `weighted_round_robin` over our servers: it balances by the load that they report.

In a process of its own, with nothing of ours but the method's name.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from typing import Any

from mesh.load_meter import Holdings, LoadMeter
from mesh.oip.open_inference_pb2 import ServerLiveRequest, ServerLiveResponse
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.testing import serve_on_free_port

# Calls until one of two servers got three of four calls, over the last 100, or until `limit_s`.
_CLIENT = """
import json, sys, time
import grpc

addresses = sys.argv[1:]
policy = {"weighted_round_robin": {"blackoutPeriod": "0.1s", "weightUpdatePeriod": "0.1s"}}
channel = grpc.insecure_channel(
    "ipv4:" + ",".join(addresses),
    options=[
        ("grpc.service_config", json.dumps({"loadBalancingConfig": [policy]})),
        ("grpc.enable_http_proxy", 0),
    ],
)
live = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
ends_at = time.monotonic() + 30
recent = []
while time.monotonic() < ends_at:
    _, call = live.with_call(b"", timeout=10, wait_for_ready=True)
    recent = [*recent[-99:], dict(call.initial_metadata())["answered-by"]]
    if len(recent) == 100 and recent.count("idle") >= 75:
        break
    time.sleep(0.002)
print(json.dumps({name: recent.count(name) for name in ("idle", "busy")}))
"""


class Named:
    """Says in its initial metadata who it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def ServerLive(self, request: ServerLiveRequest, context: Any) -> ServerLiveResponse:
        await context.send_initial_metadata((("answered-by", self._name),))
        return ServerLiveResponse(live=True)

    def __getattr__(self, rpc: str) -> None:
        return None


def reporting(utilization: float) -> LoadMeter:
    """A meter whose fullest resource is used so far."""
    load = LoadMeter()
    load.ask(lambda: Holdings(kv_usage=utilization))
    return load


async def test_weighted_round_robin_sends_fewer_calls_to_the_fuller_server() -> None:
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(
                serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, Named(name)), load=reporting(usage))
            )
            for name, usage in (("idle", 0.2), ("busy", 0.9))
        ]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _CLIENT, *addresses, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()

    counts = json.loads(output)
    assert counts["idle"] >= 75 and counts["busy"] > 0
