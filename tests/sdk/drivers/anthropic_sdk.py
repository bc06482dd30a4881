"""Driver of the stock `anthropic` package; it also holds its counting of tokens against the usage of each answer."""

from __future__ import annotations

import json
from typing import Any

from anthropic import Anthropic
from driver import Driver, Json, output, run

TIMEOUT_S = 60.0
FINISHES = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}


class Messages(Driver):
    cannot = frozenset({"n", "logprobs", "seed"})

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.client = Anthropic(base_url=url, api_key="none", max_retries=0, timeout=TIMEOUT_S)

    def ask(self, body: Json) -> Json:
        asked = as_message(body)
        found = of_message(self.client.messages.create(**asked))
        counted = {
            name: asked[name] for name in ("model", "messages", "system", "tools", "tool_choice") if name in asked
        }
        return {**found, "counted": self.client.messages.count_tokens(**counted).input_tokens}

    def ask_streamed(self, body: Json) -> Json:
        num_pieces, texts = 0, []
        with self.client.messages.stream(**as_message(body)) as stream:
            for event in stream:
                num_pieces += event.type in ("text", "input_json")
                if event.type == "text":
                    texts.append(event.text)
            message = stream.get_final_message()
        found = of_message(message)
        assert "".join(texts) == found["outputs"][0]["text"]
        return {**found, "num_pieces": num_pieces}


def as_message(body: Json) -> Json:
    """The body of a chat completion in Anthropic's words."""
    system = [message["content"] for message in body["messages"] if message["role"] == "system"]
    asked: Json = {
        "model": body["model"],
        "max_tokens": body["max_tokens"],
        "messages": [_message(message) for message in body["messages"] if message["role"] != "system"],
    }
    if system:
        asked["system"] = system[0]
    if "temperature" in body:
        asked["extra_body"] = {"temperature": body["temperature"]}
    if "stop" in body:
        asked["stop_sequences"] = body["stop"]
    if "response_format" in body:
        schema = body["response_format"]["json_schema"]["schema"]
        asked["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if "tools" in body:
        asked["tools"] = [
            {"name": one["name"], "description": one["description"], "input_schema": one["parameters"]}
            for one in (tool["function"] for tool in body["tools"])
        ]
    if "tool_choice" in body:
        choice = body["tool_choice"]
        named = None if isinstance(choice, str) else {"type": "tool", "name": choice["function"]["name"]}
        asked["tool_choice"] = named or {"type": "any" if choice == "required" else choice}
    return asked


def _message(message: Json) -> Json:
    if message["role"] == "tool":
        result = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
        return {"role": "user", "content": [result]}
    if not message.get("tool_calls"):
        return {"role": message["role"], "content": message["content"]}
    calls = [
        {
            "type": "tool_use",
            "id": call["id"],
            "name": call["function"]["name"],
            "input": json.loads(call["function"]["arguments"]),
        }
        for call in message["tool_calls"]
    ]
    return {"role": "assistant", "content": calls}


def of_message(message: Any) -> Json:
    """What a message of the SDK says."""
    calls = [
        {"name": block.name, "arguments": json.dumps(block.input)}
        for block in message.content
        if block.type == "tool_use"
    ]
    text = "".join(block.text for block in message.content if block.type == "text")
    usage = message.usage
    read = usage.input_tokens + usage.cache_creation_input_tokens + usage.cache_read_input_tokens
    return {
        "outputs": [output(text, FINISHES[message.stop_reason], calls)],
        "usage": {"input": read, "output": usage.output_tokens},
    }


if __name__ == "__main__":
    run({"anthropic": Messages})
