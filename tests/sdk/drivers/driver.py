"""What the drivers of SDKs have in common: a plan in on stdin, what the SDK gave out on stdout.

Runs in the SDKs' environment, so it imports nothing of ours. A driver is a class with `ask` and `ask_streamed`, which
say a chat completion's body in the SDK's words, and give what came back as {"outputs": …, "usage": …}. `cannot` names
what its API has not.
"""

from __future__ import annotations

import json
import sys
import traceback
from typing import Any

Json = dict[str, Any]


class Driver:
    """One way to ask with one SDK. `url`: of the gateway, without a path."""

    cannot: frozenset[str] = frozenset()

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, body: Json) -> Json:
        """The answer, as a whole."""
        raise NotImplementedError

    def ask_streamed(self, body: Json) -> Json:
        """The answer, joined from its stream; `num_pieces` says of how many pieces of text or arguments."""
        raise NotImplementedError


def output(text: str, finish: str | None, calls: list[Json] | None = None, logprobs: Any = None) -> Json:
    """One output. calls: name, and the JSON text of the arguments. logprobs: (token, log-probability) pairs."""
    found: Json = {
        "text": text,
        "calls": [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls or ()],
        "finish": finish,
    }
    if logprobs:
        found["logprobs"] = [[token, round(logprob, 5)] for token, logprob in logprobs]
    return found


def run(drivers: dict[str, type[Driver]]) -> None:
    """Run the plan on stdin with each driver, and print what was seen, by driver and scenario."""
    scenarios = json.load(sys.stdin)
    seen = {name: _run(driver, scenarios) for name, driver in drivers.items()}
    sys.stdout.write("\n" + json.dumps(seen))


def _run(driver_class: type[Driver], scenarios: list[Json]) -> Json:
    """`url` of a scenario says whom to ask."""
    drivers = {url: driver_class(url) for url in {scenario["url"] for scenario in scenarios}}
    seen: Json = {}
    for scenario in scenarios:
        driver = drivers[scenario["url"]]
        if driver.cannot & set(scenario["needs"]):
            seen[scenario["name"]] = {"cannot": sorted(driver.cannot)}
            continue
        ask = driver.ask_streamed if scenario["is_streamed"] else driver.ask
        try:
            seen[scenario["name"]] = ask(scenario["body"])
        except Exception as error:
            seen[scenario["name"]] = _error(error)
    return seen


def _error(error: Exception) -> Json:
    return {
        "error": type(error).__name__,
        "ancestors": [ancestor.__name__ for ancestor in type(error).__mro__],
        "status": getattr(error, "status_code", None),
        "request_id": getattr(error, "request_id", None),
        "message": str(error),
        "traceback": traceback.format_exc()[-600:],
    }
