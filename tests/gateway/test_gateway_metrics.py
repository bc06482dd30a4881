"""The gateway's own metrics, with labels that no client can multiply."""

from __future__ import annotations

import httpx

from tests.gateway.conftest import Door


def sample(page: str, name: str, **labels: str) -> float:
    """The value of the one sample of that name that has these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith(f"{name}{{") and all(label in line for label in wanted)
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


async def page_of(door: Door) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"http://{door.gateway.server.metrics_address}/metrics")).text


async def test_requests_are_counted_by_route_deployment_and_code(door: Door) -> None:
    chat = {"model": "chat", "messages": [{"role": "user", "content": "hi"}]}
    await door.http.post("/v1/chat/completions", json=chat)
    await door.http.post("/v1/chat/completions", json=chat | {"model": "stranger"})
    for number in range(5):
        await door.http.get(f"/guess/{number}")

    page = await page_of(door)

    requests = "meshserve_gateway_requests_total"
    assert sample(page, requests, route="/v1/chat/completions", deployment="chat", code="200") == 1
    assert sample(page, requests, route="/v1/chat/completions", deployment="_none", code="404") == 1
    assert sample(page, requests, route="_unknown", code="404") == 5
    assert "stranger" not in page
    duration = "meshserve_gateway_request_duration_seconds_count"
    assert sample(page, duration, route="/v1/chat/completions", deployment="chat") == 1
    first_token = "meshserve_gateway_time_to_first_token_seconds_count"
    assert sample(page, first_token, deployment="chat", protocol="openai") == 1


async def test_running_requests_and_the_prediction_log_are_shown(door: Door) -> None:
    page = await page_of(door)

    assert "meshserve_gateway_requests_in_flight 0.0" in page
    assert sample(page, "meshserve_prediction_log_dropped_total", reason="queue_full") == 0
