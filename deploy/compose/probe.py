"""Asks a gRPC server for its health, and says it by exit status: a container's HEALTHCHECK.

    python -m deploy.compose.probe 127.0.0.1:8092 smollm2 iris

The question is grpc.health.v1.Health/Check, which Kubernetes asks by itself and Docker does not. With names (models,
services), all of them must be served. It runs every few seconds, so it imports grpc and nothing else of weight.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

# The server is in this container: no proxy that pip may need stands before it.
_OPTIONS = (("grpc.enable_http_proxy", 0),)


def failure(address: str, names: Sequence[str], timeout_s: float) -> str | None:
    """What is not served at `address` ("host:port"), in a sentence; None when all of it is. "" is the server."""
    with grpc.insecure_channel(address, _OPTIONS) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        for name in names:
            try:
                status = check(health_pb2.HealthCheckRequest(service=name), timeout=timeout_s).status
            except grpc.RpcError as error:
                return f"{name or 'server'} at {address}: {error.code().name}: {error.details()}"
            if status != health_pb2.HealthCheckResponse.SERVING:
                return f"{name or 'server'} at {address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}"
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="probe", description="Exit 0 when a gRPC server and its models serve.")
    parser.add_argument("address", help="host:port of the server")
    parser.add_argument("names", nargs="*", help="models or services that must be served too")
    parser.add_argument("--timeout-s", type=float, default=4.0, help="seconds that each answer may take")
    arguments = parser.parse_args(argv)
    reason = failure(arguments.address, ("", *arguments.names), arguments.timeout_s)
    if reason is not None:
        print(reason, file=sys.stderr)  # noqa: T201 -- Docker keeps it beside the container's state
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
