"""A client of OpenAI's streamed `/v1/completions`, as every server here speaks it.

The text of the prompt goes as it is: no chat template, so that all servers read the same number of tokens. `ignore_eos`
is no field of OpenAI's, but llama.cpp, vLLM and MeshServe have it by that name.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import httpx
import orjson

from bench.llm.answer import BadAnswer, Part, Usage

TIMEOUT_S = 600.0
_DATA = "data: "
_DONE = "[DONE]"


class OpenAIClient:
    """Implements Client over HTTP/1.1, a connection for each request."""

    def __init__(self, base_url: str, model: str) -> None:
        # A kept connection may be closed by the server just when the next request goes out on it.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self._http = httpx.AsyncClient(base_url=base_url, timeout=TIMEOUT_S, limits=limits, trust_env=False)
        self._model = model

    async def complete(self, prompt: str, max_tokens: int) -> AsyncGenerator[Part, None]:
        body = {
            "model": self._model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            async with self._http.stream("POST", "/v1/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise BadAnswer(f"{response.status_code}: {response.text[:200]}")
                async for line in response.aiter_lines():
                    part = parse_line(line)
                    if part is not None:
                        yield part
        except httpx.HTTPError as error:
            raise BadAnswer(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._http.aclose()


def parse_line(line: str) -> Part | None:
    """One line of the event stream; None for those that are no event with data. Raises BadAnswer for an error event."""
    if not line.startswith(_DATA) or line[len(_DATA) :] == _DONE:
        return None
    event: dict[str, Any] = orjson.loads(line[len(_DATA) :])  # Any: what a foreign server sends
    if "error" in event:
        raise BadAnswer(str(event["error"])[:200])
    usage = event.get("usage")
    return Part(
        has_text=any(choice.get("text") for choice in event.get("choices", ())),
        usage=Usage(usage["prompt_tokens"], usage["completion_tokens"]) if usage else None,
    )
