"""Drivers of the stock `openai` package: chat completions, and responses."""

from __future__ import annotations

from typing import Any

from driver import Driver, Json, output, run
from openai import OpenAI

TIMEOUT_S = 60.0


class _OpenAI(Driver):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S)


class Chat(_OpenAI):
    def ask(self, body: Json) -> Json:
        return of_completion(self.client.chat.completions.create(**body))

    def ask_streamed(self, body: Json) -> Json:
        with self.client.chat.completions.create(**body, stream=True, stream_options={"include_usage": True}) as stream:
            return of_chunks(stream)


class Responses(_OpenAI):
    cannot = frozenset({"n"})

    def ask(self, body: Json) -> Json:
        return _of_response(self.client.responses.create(**_as_response(body)))

    def ask_streamed(self, body: Json) -> Json:
        asked = _as_response(body)
        sampling = asked.pop("extra_body", None)
        num_pieces, logprobs = 0, []
        with self.client.responses.create(**asked, extra_body=sampling, stream=True) as stream:
            final = None
            for event in stream:
                if event.type in ("response.output_text.delta", "response.function_call_arguments.delta"):
                    num_pieces += 1
                    logprobs += getattr(event, "logprobs", [])
                final = getattr(event, "response", final)
        found = _of_response(final)
        if logprobs:
            assert [one.token for one in logprobs] == [token for token, _ in found["outputs"][0]["logprobs"]]
        return {**found, "num_pieces": num_pieces}


def of_completion(answer: Any) -> Json:
    """What a whole chat completion says; LiteLLM's have the same form."""
    outputs = []
    for choice in answer.choices:
        calls = [
            {"name": call.function.name, "arguments": call.function.arguments}
            for call in choice.message.tool_calls or ()
        ]
        told = getattr(choice, "logprobs", None)
        logprobs = [(one.token, one.logprob) for one in (told and told.content) or ()]
        outputs.append(output(choice.message.content or "", choice.finish_reason, calls, logprobs))
    return {
        "outputs": outputs,
        "usage": {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens},
    }


def of_chunks(stream: Any) -> Json:
    """What the chunks of a chat completion with one choice say; LiteLLM's have the same form."""
    text, finish, usage, num_pieces = "", None, None, 0
    calls: dict[int, Json] = {}
    logprobs: list[tuple[str, float]] = []
    for chunk in stream:
        usage = getattr(chunk, "usage", None) or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            num_pieces += bool(choice.delta.content)
            finish = choice.finish_reason or finish
            if getattr(choice, "logprobs", None):
                logprobs += [(one.token, one.logprob) for one in choice.logprobs.content or ()]
            for delta in choice.delta.tool_calls or ():
                call = calls.setdefault(delta.index, {"name": "", "arguments": ""})
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
                num_pieces += bool(delta.function.arguments)
    joined = output(text, finish, [call for _, call in sorted(calls.items())], logprobs)
    counted = {"input": usage.prompt_tokens, "output": usage.completion_tokens} if usage else None
    return {"outputs": [joined], "usage": counted, "num_pieces": num_pieces}


def _as_response(body: Json) -> Json:
    """The body of a chat completion in the words of responses."""
    asked: Json = {"model": body["model"], "input": _items(body["messages"]), "max_output_tokens": body["max_tokens"]}
    asked |= {name: body[name] for name in ("temperature",) if name in body}
    if more := {name: body[name] for name in ("seed", "stop") if name in body}:
        asked["extra_body"] = more
    if "logprobs" in body:
        asked |= {"include": ["message.output_text.logprobs"], "top_logprobs": body["top_logprobs"]}
    if "response_format" in body:
        asked["text"] = {"format": {"type": "json_schema", **body["response_format"]["json_schema"]}}
    if "tools" in body:
        asked["tools"] = [{"type": "function", **tool["function"]} for tool in body["tools"]]
    if "tool_choice" in body:
        choice = body["tool_choice"]
        asked["tool_choice"] = choice if isinstance(choice, str) else {"type": "function", **choice["function"]}
    return asked


def _items(messages: list[Json]) -> list[Json]:
    items: list[Json] = []
    for message in messages:
        if message["role"] == "tool":
            items.append(
                {"type": "function_call_output", "call_id": message["tool_call_id"], "output": message["content"]}
            )
            continue
        if message["content"] is not None:
            items.append({"role": message["role"], "content": message["content"]})
        for call in message.get("tool_calls", ()):
            items.append({"type": "function_call", "call_id": call["id"], **call["function"]})
    return items


def _of_response(response: Any) -> Json:
    texts = [part for item in response.output if item.type == "message" for part in item.content]
    calls = [
        {"name": item.name, "arguments": item.arguments} for item in response.output if item.type == "function_call"
    ]
    finish = "length" if response.status == "incomplete" else "tool_calls" if calls else "stop"
    logprobs = [(one.token, one.logprob) for part in texts for one in part.logprobs or ()]
    return {
        "outputs": [output("".join(part.text for part in texts), finish, calls, logprobs)],
        "usage": {"input": response.usage.input_tokens, "output": response.usage.output_tokens},
    }


if __name__ == "__main__":
    run({"openai chat": Chat, "openai responses": Responses})
