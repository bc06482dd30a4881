"""`meshserve explain`: rows or a prompt to the gateway, and the attributions on the terminal."""

from __future__ import annotations

import json
from typing import Any

import pytest

ROW = {
    "target": "setosa",
    "score": 0.98,
    "base_score": 0.09,
    "attributions": [{"name": "petal length", "value": 0.3}, {"name": "sepal width", "value": -0.15}],
}
PROMPT = {
    "target": " Paris",
    "score": -0.25,
    "rendered_prompt": "capital of France",
    "attributions": [
        {"name": "capital", "value": 4.0, "start": 0, "length": 7},
        {"name": "France", "value": 2.0, "start": 11, "length": 6},
    ],
}


def test_rows_are_explained_feature_by_feature(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.explanations = [ROW]

    result = run_cli("explain", "iris", "--data", "[1, 2, 3, 4]", "--gateway", fake_gateway.url)

    assert result.status == 0
    assert fake_gateway.bodies == [{"instances": [[1, 2, 3, 4]]}]
    assert "answer setosa  score 0.98, 0.09 without any feature" in result.out
    assert "petal length  +0.3000" in result.out
    assert "sepal width   -0.1500" in result.out


def test_a_prompt_is_a_message_unless_it_is_raw(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.explanations = [PROMPT]

    run_cli("explain", "smollm2", "capital of France", "--target", " Paris", "--gateway", fake_gateway.url)
    result = run_cli(
        "explain",
        "smollm2",
        "--raw",
        "capital of France",
        "--max-tokens",
        "3",
        "--method",
        "m",
        "--gateway",
        fake_gateway.url,
    )

    message = {"role": "user", "content": "capital of France"}
    assert fake_gateway.bodies == [
        {"instances": [{"messages": [message], "target": " Paris"}]},
        {"instances": [{"prompt": "capital of France", "max_tokens": 3}], "method": "m"},
    ]
    assert "answer  Paris  log-probability -0.25" in result.out
    assert "capital  +4.0000" in result.out


def test_json_is_what_the_gateway_said(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.explanations = [ROW]

    result = run_cli("explain", "iris", "-d", "[[1, 2, 3, 4]]", "--json", "--gateway", fake_gateway.url)

    assert json.loads(result.out) == {"explanations": [ROW]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "there is nothing to explain"),
        (("a prompt", "--data", "[[1]]"), "there are both a prompt and --data"),
    ],
)
def test_exactly_one_thing_is_explained(run_cli: Any, arguments: tuple[str, ...], sentence: str) -> None:
    result = run_cli("explain", "iris", *arguments)

    assert (result.status, result.err.split(";")[0]) == (1, f"meshserve: {sentence}")
