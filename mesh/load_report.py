"""What a replica says of its load, with its answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadReport:
    """As of the moment of the answer.

    running, queued: requests. queued_tokens: prompt tokens that no step has computed yet. kv_usage: share of the KV
    cache in use, 0 to 1. work: all that waits or runs, in the unit of mesh.balancing's `Request.cost`.
    """

    running: int = 0
    queued: int = 0
    queued_tokens: int = 0
    kv_usage: float = 0.0
    work: float = 0.0
