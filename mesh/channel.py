"""The only place where client channels are made, and where a peer's status becomes a MeshError again."""

from __future__ import annotations

import grpc
import grpc.aio

from mesh import errors
from mesh.interceptors import client_chain
from mesh.interceptors.error_trailers import error_from

MAX_MESSAGE_BYTES = 64 << 20

_OPTIONS: list[tuple[str, int]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Equal-argument channels would share one connection, and with it one worker process of the peer.
    ("grpc.use_local_subchannel_pool", 1),
    # A restarted replica has its old address: look for it soon, and go on looking soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Longest wait for a connection: a host that is busy needs its time to answer.
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A peer that vanished without a word (a pulled cable, a frozen host) is noticed after a quarter of a minute,
    # whatever the call; the calls of an Exchange notice sooner (mesh/multiplex/liveness.py).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # What ends the connection in gRPC 1.85: by default only after another minute.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # No proxy of the environment stands between services.
    ("grpc.enable_http_proxy", 0),
    # Retries are the pool's: it knows other replicas.
    ("grpc.enable_retries", 0),
]


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `address` ("host:port"); connects when first used. The caller closes it."""
    return grpc.aio.insecure_channel(address, options=_OPTIONS, interceptors=client_chain())


def to_mesh_error(error: grpc.aio.AioRpcError) -> errors.MeshError:
    """The error that the peer meant, with its sentence."""
    code = error.code()
    details = error.details() or code.name
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "message larger than max" in details:
        return errors.MessageTooLarge("the message is larger than the receiver takes")
    if code is grpc.StatusCode.UNKNOWN:
        return errors.Internal(details)
    return error_from(code.value[0], details, error.trailing_metadata() or ())
