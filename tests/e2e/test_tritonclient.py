"""A stock tritonclient.grpc against the gateway of a running mesh."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.e2e.running import ROOT, Mesh


@pytest.fixture(scope="module")
def seen(mesh: Mesh) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "interop" / "tritonclient_scenarios.py"), mesh.grpc_address],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_server_and_models_are_ready(seen: dict[str, Any]) -> None:
    assert (seen["live"], seen["ready"], seen["models ready"]) == (True, True, [True, True, False])
    assert seen["index"] == ["iris", "smollm2"]


def test_model_says_what_it_takes(seen: dict[str, Any]) -> None:
    assert seen["inputs"] == ["input"]
    assert seen["config"] is True, "a language model is decoupled"


def test_iris_is_inferred(seen: dict[str, Any]) -> None:
    assert seen["iris"] == {"label": [0, 2], "outputs": ["label"], "id": "r-7", "version": "1"}
    assert seen["statistics"] > 0


def test_text_streams_in_pieces_that_make_the_whole(seen: dict[str, Any]) -> None:
    assert len([piece for piece in seen["stream"]["pieces"] if piece]) > 1
    assert seen["text"].endswith("".join(seen["stream"]["pieces"]))


def test_bad_request_does_not_end_the_stream(seen: dict[str, Any]) -> None:
    assert "nobody" in seen["stream"]["failure"]
    assert seen["stream"]["label_after"] == [0]


def test_bad_input_gets_the_status_of_the_contract(seen: dict[str, Any]) -> None:
    assert seen["bad input"] == {
        "unknown model": "StatusCode.NOT_FOUND",
        "unknown version": "StatusCode.NOT_FOUND",
        "wrong shape": "StatusCode.INVALID_ARGUMENT",
        "wrong datatype": "StatusCode.INVALID_ARGUMENT",
        "load of an unknown model": "StatusCode.NOT_FOUND",
    }
