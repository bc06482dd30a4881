"""The gateway over HTTP, as the commands need it: JSON in and out, server-sent events, and errors as sentences.

Knows the three error bodies of the gateway's protocols, and nothing of what the requests mean.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any  # JSON is whatever the gateway sends

import httpx

from cli.failure import Failure

_CONNECT_TIMEOUT_S = 5.0


class GatewayClient:
    """A context manager: `with GatewayClient(url, timeout_s=60) as gateway`."""

    def __init__(self, url: str, *, timeout_s: float, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        self._timeout_s = timeout_s
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        # trust_env off: a proxy of the environment does not stand between a person and their own mesh.
        self._client = httpx.Client(base_url=url, timeout=timeout, transport=transport, trust_env=False)

    def __enter__(self) -> GatewayClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def get(self, path: str) -> Any:
        """The JSON at `path`. Raises Failure."""
        with self._explained():
            return _json_of(self._client.get(path))

    def post(self, path: str, body: object) -> Any:
        """The JSON that `path` answers to `body` with. Raises Failure."""
        with self._explained():
            return _json_of(self._client.post(path, json=body))

    def stream(self, path: str, body: object) -> Iterator[Any]:
        """The JSON of each server-sent event that `path` answers with, up to `[DONE]`. Raises Failure."""
        with self._explained(), self._client.stream("POST", path, json=body) as response:
            if response.is_error:
                response.read()
                _json_of(response)
            for line in response.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise Failure(_sentence(event) or "the answer broke off")
                yield event
        raise Failure("the answer broke off before its end", "ask again")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout):
            raise Failure(
                f"no mesh answers at {self.url}",
                "start one with `meshserve up`, or name another with --gateway URL",
            ) from None
        except httpx.TimeoutException:
            raise Failure(f"no answer within {self._timeout_s:g} s", "allow more with --timeout") from None
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            raise Failure("the gateway closed the connection", "look at `meshserve status`, then ask again") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Failure(f"{self.url} cannot be asked: {error}") from None
        except ValueError:
            raise Failure(f"{self.url} does not answer in JSON", "is it the gateway of a mesh?") from None


def _json_of(response: httpx.Response) -> Any:
    if response.is_error:
        try:
            sentence = _sentence(response.json())
        except ValueError:
            sentence = None
        raise Failure(sentence or f"{response.request.url} answers {response.status_code}", _advice(response))
    return response.json()


def _sentence(body: Any) -> str | None:
    """`{"error": "…"}` of OIP and V1, `{"error": {"message": "…"}}` of OpenAI."""
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else None


def _advice(response: httpx.Response) -> str:
    match response.status_code:
        case 404:
            return "`meshserve models` lists what is served"
        case 429:
            return f"try again in {response.headers.get('retry-after', 'a few')} s"
        case 503:
            return "`meshserve status` says what is not serving"
        case _:
            return ""
