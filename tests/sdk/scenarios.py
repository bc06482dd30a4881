"""What stock SDKs ask: bodies of chat completions, which each driver says in its SDK's own words.

What an SDK must see is what plain HTTP sees of the same body, read off the answer here; with temperature 0 or a seed it
is the same each time. `needs` says what not every API has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

QUESTION = [{"role": "user", "content": "Name the capital of France."}]
WEATHER = [{"role": "user", "content": "How is the weather in Paris?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
NOTE = {
    "type": "function",
    "function": {
        "name": "take_note",
        "description": "Keeps a note.",
        "parameters": {
            "type": "object",
            "properties": {"about": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["about"],
            "additionalProperties": False,
        },
    },
}
PLACE = {
    "type": "object",
    "properties": {"name": {"type": "string", "enum": ["Paris", "Rome"]}, "is_capital": {"type": "boolean"}},
    "required": ["name", "is_capital"],
    "additionalProperties": False,
}
CALLED = [
    *WEATHER,
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris", "days": 1}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"},
]


@dataclass(frozen=True)
class Scenario:
    """error: the class that the SDK must raise (its last name; Anthropic's and OpenAI's are the same), and the status.

    needs: of "sampling", "n", "logprobs", "seed", "stop", "schema". only_fake: it asks for what only the fake language
    model does.
    """

    name: str
    body: Json
    needs: frozenset[str] = frozenset()
    error: tuple[str, int] | None = None
    is_streamed: bool = False
    only_fake: bool = False
    max_tokens: int = 16
    temperature: float = field(default=0.0)

    def to_json(self, model: str, url: str) -> Json:
        """For the driver's plan."""
        common = {"model": model, "max_tokens": self.max_tokens}
        body = {**common, "messages": QUESTION, **self.body}
        if "sampling" not in self.needs:
            body.setdefault("temperature", self.temperature)
        return {
            "url": url,
            "name": self.name,
            "body": body,
            "needs": sorted(self.needs),
            "is_streamed": self.is_streamed,
        }


def _both_ways(name: str, body: Json, **more: Any) -> list[Scenario]:
    """Whole and streamed."""
    return [Scenario(name, body, **more), Scenario(f"{name}, streamed", body, is_streamed=True, **more)]


def all_scenarios() -> list[Scenario]:
    """The list."""
    named = {"type": "function", "function": {"name": "take_note"}}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": PLACE, "strict": True}}
    two, tools = [TOOL, NOTE], {"max_tokens": 64}
    system = [{"role": "system", "content": "You are a poet."}, *QUESTION]
    talk = [*QUESTION, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Italy?"}]
    return [
        *_both_ways("answer", {}),
        *_both_ways("system", {"messages": system}),
        Scenario("conversation", {"messages": talk}),
        *_both_ways("stop", {"stop": ["a", "!"]}, needs=frozenset({"stop"})),
        Scenario("cut", {}, max_tokens=1),
        Scenario("seed", {"temperature": 1.0, "seed": 7}, frozenset({"sampling", "seed"})),
        Scenario("two choices", {"temperature": 1.0, "seed": 7, "n": 2}, frozenset({"sampling", "seed", "n"})),
        *_both_ways("logprobs", {"logprobs": True, "top_logprobs": 2}, needs=frozenset({"logprobs"})),
        *_both_ways("json schema", {"response_format": form}, needs=frozenset({"schema"}), **tools),
        Scenario("tool, auto", {"messages": WEATHER, "tools": two}, **tools),
        Scenario("tool, none", {"messages": WEATHER, "tools": two, "tool_choice": "none"}),
        *_both_ways("tool, required", {"messages": WEATHER, "tools": two, "tool_choice": "required"}, **tools),
        *_both_ways("tool, named", {"messages": WEATHER, "tools": two, "tool_choice": named}, **tools),
        Scenario("tool, answered", {"messages": CALLED, "tools": two, "tool_choice": "none"}),
        *_errors(),
    ]


def _errors() -> list[Scenario]:
    def said(text: str) -> Json:
        return {"messages": [{"role": "user", "content": text}]}

    return [
        Scenario("unknown model", {"model": "nobody"}, error=("NotFoundError", 404)),
        Scenario("bad field", {"max_tokens": -1}, error=("BadRequestError", 400)),
        Scenario("context too long", said("very " * 20_000 + "too long"), error=("BadRequestError", 400)),
        *_both_ways("overloaded", said("busy"), error=("RateLimitError", 429), only_fake=True),
        Scenario("cut stream", said("fails midway"), is_streamed=True, error=("APIError", 0), only_fake=True),
    ]


def seen_of(answer: Json) -> Json:
    """What an SDK must see of a whole chat completion: outputs in the words of all drivers, and the usage."""
    return {
        "outputs": [_output(choice) for choice in answer["choices"]],
        "usage": {"input": answer["usage"]["prompt_tokens"], "output": answer["usage"]["completion_tokens"]},
    }


def _output(choice: Json) -> Json:
    calls = choice["message"].get("tool_calls") or []
    found = {
        "text": choice["message"]["content"] or "",
        "calls": [
            {"name": call["function"]["name"], "arguments": json.loads(call["function"]["arguments"])} for call in calls
        ],
        "finish": choice["finish_reason"],
    }
    if choice["logprobs"]:
        found["logprobs"] = [[one["token"], round(one["logprob"], 5)] for one in choice["logprobs"]["content"]]
    return found
