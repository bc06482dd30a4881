"""Drivers of LiteLLM as a client: of the gateway as an OpenAI, and as an Anthropic."""

from __future__ import annotations

import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # its prices are on the network, which a test has not

import litellm
from driver import Driver, Json, run
from openai_sdk import of_chunks, of_completion

TIMEOUT_S = 60.0
litellm.suppress_debug_info = True


class AsOpenAI(Driver):
    provider = "openai"

    def ask(self, body: Json) -> Json:
        return of_completion(litellm.completion(**self._as_asked(body)))

    def ask_streamed(self, body: Json) -> Json:
        return of_chunks(
            litellm.completion(**self._as_asked(body), stream=True, stream_options={"include_usage": True})
        )

    def _as_asked(self, body: Json) -> Json:
        more = {"api_base": self._base(), "api_key": "none", "max_retries": 0, "timeout": TIMEOUT_S}
        return {**body, "model": f"{self.provider}/{body['model']}", **more}

    def _base(self) -> str:
        return f"{self.url}/v1"


class AsAnthropic(AsOpenAI):
    """A JSON schema becomes a tool here, which LiteLLM turns into text again."""

    cannot = frozenset({"n", "seed", "logprobs", "schema"})
    provider = "anthropic"

    def _base(self) -> str:
        return self.url


if __name__ == "__main__":
    run({"litellm openai": AsOpenAI, "litellm anthropic": AsAnthropic})
