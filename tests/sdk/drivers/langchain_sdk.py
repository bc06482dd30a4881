"""Drivers of LangChain's ChatOpenAI: over chat completions, and over responses."""

from __future__ import annotations

import json
from typing import Any

from driver import Driver, Json, output, run
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_openai import ChatOpenAI

TIMEOUT_S = 60.0


class Chat(Driver):
    """n: LangChain joins the choices of one call only in `generate`, which its users are told not to call."""

    cannot = frozenset({"n"})
    uses_responses = False

    def ask(self, body: Json) -> Json:
        return self._of_message(self._bound(body).invoke(body["messages"]))

    def ask_streamed(self, body: Json) -> Json:
        whole: AIMessageChunk | None = None
        num_pieces = 0
        for chunk in self._bound(body).stream(body["messages"]):
            num_pieces += bool(chunk.text or chunk.tool_call_chunks)
            whole = chunk if whole is None else whole + chunk
        assert whole is not None
        return {**self._of_message(whole), "num_pieces": num_pieces}

    def _bound(self, body: Json) -> Any:
        names = ("temperature", "max_tokens", "seed", "stop", "logprobs", "top_logprobs")
        given = {name: body[name] for name in names if name in body}
        model: Any = ChatOpenAI(
            model=body["model"],
            base_url=f"{self.url}/v1",
            api_key="none",
            max_retries=0,
            timeout=TIMEOUT_S,
            stream_usage=True,
            use_responses_api=self.uses_responses,
            **given,
        )
        if "tools" in body:
            choice = body.get("tool_choice")
            model = model.bind_tools(body["tools"], tool_choice=choice)
        if "response_format" in body:
            model = model.bind(response_format=body["response_format"])
        return model

    def _of_message(self, message: AIMessage) -> Json:
        calls = [{"name": call["name"], "arguments": json.dumps(call["args"])} for call in message.tool_calls]
        about = message.response_metadata
        logprobs = [(one["token"], one["logprob"]) for one in (about.get("logprobs") or {}).get("content") or ()]
        usage = message.usage_metadata
        assert usage is not None
        return {
            "outputs": [output(message.text, self._finish(about, calls), calls, logprobs)],
            "usage": {"input": usage["input_tokens"], "output": usage["output_tokens"]},
        }

    def _finish(self, about: Json, calls: list[Json]) -> str:
        finish: str = about["finish_reason"]
        return finish


class Responses(Chat):
    """LangChain has neither seed, stop nor log-probabilities for responses."""

    cannot = frozenset({"n", "seed", "stop", "logprobs"})
    uses_responses = True

    def _finish(self, about: Json, calls: list[Json]) -> str:
        return "length" if about["status"] == "incomplete" else "tool_calls" if calls else "stop"


if __name__ == "__main__":
    run({"langchain chat": Chat, "langchain responses": Responses})
