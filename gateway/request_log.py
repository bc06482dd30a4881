"""One log line a request, with its id: what was asked, of which deployment, how it ended and how long it took.

Prompts and tensors are not in it: they are the prediction log's.
"""

from __future__ import annotations

import logging

from gateway.exchange import Exchange
from mesh.logs import get_logger

log = get_logger(__name__)

# Asked every few seconds by probes; a line for each would bury the others.
_PROBES = ("/v2/health/live", "/v2/health/ready", "ServerLive", "ServerReady")


class RequestLog:
    """`submit` is a sink for finished exchanges. Make it when logs are configured."""

    def __init__(self) -> None:
        # A module's logger looks up the configuration for each line, also for one that is not to be written: more than
        # anything else that a small request does here.
        self._log = log.bind()
        self._is_written = self._log.is_enabled_for(logging.INFO)

    def submit(self, exchange: Exchange) -> None:
        """Write the exchange's line."""
        if not self._is_written or (exchange.error is None and exchange.route.endswith(_PROBES)):
            return
        self._log.info(
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
