"""`meshserve models`: names, versions, states and formats, as a table or as JSON."""

from __future__ import annotations

import json
from typing import Any


def test_every_model_has_a_line(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.index[0].update(state="UNAVAILABLE", reason="no predictor has it ready")

    result = run_cli("models", "--gateway", fake_gateway.url)

    assert result.status == 0
    assert [line.rstrip().split(maxsplit=3) for line in result.out.splitlines()] == [
        ["model", "version", "state", "format"],
        ["iris", "1", "ready", "sklearn_skops"],
        ["smollm2", "1", "unavailable", "(no predictor has it ready)"],
    ]


def test_json_has_the_same(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("models", "--json", "--gateway", fake_gateway.url)

    assert json.loads(result.out)[0] == {
        "name": "iris",
        "version": "1",
        "state": "READY",
        "reason": "",
        "platform": "sklearn_skops",
    }
