"""One log line a request, with its id: what was asked, of which deployment, how it ended and how long it took.

Prompts and tensors are not in it: they are the prediction log's.
"""

from __future__ import annotations

from gateway.exchange import Exchange
from mesh.logs import get_logger

log = get_logger(__name__)

# Asked every few seconds by probes; a line for each would bury the others.
_PROBES = ("/v2/health/live", "/v2/health/ready", "ServerLive", "ServerReady")


def log_request(exchange: Exchange) -> None:
    """A sink for finished exchanges."""
    if exchange.route.endswith(_PROBES) and exchange.error is None:
        return
    log.info(
        "request",
        request_id=exchange.request_id,
        trace_id=exchange.trace_id,
        protocol=exchange.protocol,
        route=exchange.route,
        deployment=exchange.deployment,
        status=exchange.status,
        seconds=round(exchange.total_s, 6),
        **({"error": exchange.error} if exchange.error is not None else {}),
    )
