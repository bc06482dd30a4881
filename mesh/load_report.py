"""What a replica says of its load with its answers, in the form that gRPC's own balancers read.

That is ORCA's report (gRFC A51; a stock client's `weighted_round_robin`, gRFC A58, lives on it): in the trailing
metadata of a call, or in a message of an Exchange. Whoever sends it is a stranger: a figure that makes no sense is
taken for the nearest that does, and what is no report at all for none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from mesh.orca.orca_load_report_pb2 import OrcaLoadReport

# Name of the trailing metadata that holds a report (gRFC A51).
TRAILER = "endpoint-load-metrics-bin"

# Larger than any figure that means something, and small enough that sums of them stay exact.
MAX_FIGURE = 1e9
MAX_REPORT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LoadReport:
    """As of the moment of the answer.

    running, queued: requests. queued_tokens: tokens that wait for their first step, as of the engine's last. kv_usage:
    share of the KV cache in use, 0 to 1. work: all that waits or runs, in the unit of mesh.balancing's `Request.cost`.
    requests_per_s, errors_per_s: that ended, and of these those that failed at the replica's end. utilization: 1 is
    full, more is too full.
    """

    running: int = 0
    queued: int = 0
    queued_tokens: int = 0
    kv_usage: float = 0.0
    work: float = 0.0
    requests_per_s: float = 0.0
    errors_per_s: float = 0.0
    utilization: float = 0.0


def encode_load_report(report: LoadReport) -> bytes:
    """An OrcaLoadReport, serialized; equal reports give equal bytes."""
    return OrcaLoadReport(
        rps_fractional=report.requests_per_s,
        eps=report.errors_per_s,
        application_utilization=report.utilization,
        utilization={"kv_cache": report.kv_usage},
        named_metrics={
            "running": report.running,
            "queued": report.queued,
            "queued_tokens": report.queued_tokens,
            "kv_usage": report.kv_usage,
            "work": report.work,
        },
    ).SerializeToString(deterministic=True)


def decode_load_report(encoded: bytes) -> LoadReport | None:
    """What an OrcaLoadReport says, each figure finite and not negative; None for bytes that are none."""
    if len(encoded) > MAX_REPORT_BYTES:
        return None
    try:
        orca = OrcaLoadReport.FromString(encoded)
    except DecodeError:
        return None
    named = orca.named_metrics

    def figure(name: str) -> float:
        return _sane(named[name]) if name in named else 0.0

    return LoadReport(
        running=int(figure("running")),
        queued=int(figure("queued")),
        queued_tokens=int(figure("queued_tokens")),
        kv_usage=min(1.0, figure("kv_usage")),
        work=figure("work"),
        requests_per_s=_sane(orca.rps_fractional),
        errors_per_s=_sane(orca.eps),
        utilization=_sane(orca.application_utilization),
    )


def _sane(figure: float) -> float:
    return 0.0 if math.isnan(figure) else min(max(figure, 0.0), MAX_FIGURE)
