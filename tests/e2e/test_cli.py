"""The `meshserve` verbs against a real mesh: answers, `--json`, and one sentence when something is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.e2e.running import ROOT, SERVICES, Mesh


def test_status_names_every_service_and_model(mesh: Mesh) -> None:
    done = mesh.cli("status", "--json")

    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert {service["name"] for service in seen["services"]} == set(SERVICES)
    assert {model["name"] for model in seen["models"]} == {"smollm2", "iris"}


def test_models_are_listed(mesh: Mesh) -> None:
    done = mesh.cli("models")

    assert done.returncode == 0
    assert "smollm2" in done.stdout
    assert "iris" in done.stdout


def test_infer_over_rest_and_grpc_agree(mesh: Mesh) -> None:
    answers = [
        mesh.cli("infer", "iris", "--data", "[[6.7, 3.0, 5.2, 2.3]]", "--json", *flags) for flags in ((), ("--grpc",))
    ]

    assert [answer.returncode for answer in answers] == [0, 0], answers[1].stderr
    labels = [
        next(output["data"] for output in json.loads(answer.stdout)["outputs"] if output["name"] == "label")
        for answer in answers
    ]
    assert labels == [[2], [2]]


def test_explain_shows_words(mesh: Mesh) -> None:
    done = mesh.cli("explain", "smollm2", "Name the capital of France.", "--target", "Paris")

    assert done.returncode == 0, done.stderr
    assert "France" in done.stdout


def test_chat_answers_once(mesh: Mesh) -> None:
    done = mesh.cli("chat", "Name the capital of France.", "--temperature", "0", "--max-tokens", "24")

    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_unknown_model_is_one_sentence(mesh: Mesh) -> None:
    done = mesh.cli("infer", "nobody", "--data", "[[1.0]]")

    assert done.returncode == 1
    assert "nobody" in done.stderr
    assert "Traceback" not in done.stderr


def test_absent_gateway_is_one_sentence_that_says_what_to_do() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "models", "--gateway", "http://127.0.0.1:9"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 1
    assert "127.0.0.1:9" in done.stderr
    assert "meshserve up" in done.stderr
