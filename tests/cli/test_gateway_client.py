"""The gateway's answers and errors as the commands see them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from cli.failure import Failure
from cli.gateway_client import GatewayClient

Handler = Callable[[httpx.Request], httpx.Response]


def client(handler: Handler) -> GatewayClient:
    return GatewayClient("http://gateway", timeout_s=1, transport=httpx.MockTransport(handler))


@pytest.mark.parametrize("body", [{"error": "a sentence"}, {"error": {"message": "a sentence", "type": "api_error"}}])
def test_both_error_bodies_give_their_sentence(body: object) -> None:
    with pytest.raises(Failure, match="^a sentence$"), client(lambda _: httpx.Response(400, json=body)) as gateway:
        gateway.get("/")


@pytest.mark.parametrize(
    ("status", "advice"),
    [(404, "meshserve models"), (503, "meshserve status"), (429, "try again in 7 s")],
)
def test_what_to_do_next_depends_on_the_status(status: int, advice: str) -> None:
    response = httpx.Response(status, json={"error": "no"}, headers={"retry-after": "7"})

    with pytest.raises(Failure, match=advice), client(lambda _: response) as gateway:
        gateway.get("/")


@pytest.mark.parametrize("status", [200, 502])
def test_what_is_no_json_is_a_sentence(status: int) -> None:
    with pytest.raises(Failure), client(lambda _: httpx.Response(status, text="<html>")) as gateway:
        gateway.get("/")


def test_a_slow_gateway_is_a_sentence() -> None:
    def slow(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow", request=request)

    with pytest.raises(Failure, match="no answer within 1 s; allow more with --timeout"), client(slow) as gateway:
        gateway.post("/", {})


def test_a_stream_is_its_events() -> None:
    text = ': comment\n\ndata: {"a": 1}\n\ndata: {"a": 2}\n\ndata: [DONE]\n\n'
    with client(lambda _: httpx.Response(200, text=text)) as gateway:
        assert list(gateway.stream("/", {})) == [{"a": 1}, {"a": 2}]


def test_an_error_inside_a_stream_is_its_sentence() -> None:
    text = 'data: {"a": 1}\n\ndata: {"error": {"message": "the replica went away"}}\n\n'
    with client(lambda _: httpx.Response(200, text=text)) as gateway:
        events = gateway.stream("/", {})
        assert next(events) == {"a": 1}
        with pytest.raises(Failure, match="the replica went away"):
            next(events)
