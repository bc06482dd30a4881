"""How many streams went on at another replica, as the hops that moved them count it themselves."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families

COUNTER = "meshserve_stream_resumptions"
_TIMEOUT_S = 5.0


async def moved_streams(metrics_address: str) -> int:
    """What the service at `metrics_address` has counted since its start; 0 when it does not say, for it may be dead."""
    try:
        async with httpx.AsyncClient(timeout=_TIMEOUT_S, trust_env=False) as http:
            response = await http.get(f"http://{metrics_address}/metrics")
    except httpx.HTTPError:
        return 0
    families = text_string_to_metric_families(response.text)
    return sum(
        round(sample.value)
        for family in families
        for sample in family.samples
        if family.name == COUNTER and sample.name == f"{COUNTER}_total"
    )
