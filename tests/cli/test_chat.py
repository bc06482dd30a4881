"""`meshserve chat`: a question in, the streamed answer out, and every failure a sentence."""

from __future__ import annotations

import io
from typing import Any

import pytest


def test_the_answer_is_put_together_from_its_parts(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("chat", "--gateway", fake_gateway.url, "Name the capital of France.")

    assert (result.status, result.out) == (0, "Paris.\n")
    (body,) = fake_gateway.bodies
    assert body["model"] == "smollm2"
    assert body["messages"] == [{"role": "user", "content": "Name the capital of France."}]
    assert body["stream"] is True


def test_options_go_into_the_request(fake_gateway: Any, run_cli: Any) -> None:
    options = ["--model", "other", "--system", "Be brief.", "--seed", "7", "--max-tokens", "3", "--temperature", "0"]

    run_cli("chat", "--gateway", fake_gateway.url, *options, "Hi")

    (body,) = fake_gateway.bodies
    assert (body["model"], body["seed"], body["max_tokens"], body["temperature"]) == ("other", 7, 3, 0)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_question_comes_from_stdin(fake_gateway: Any, run_cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Say hello.\n"))

    result = run_cli("chat", "--gateway", fake_gateway.url, "-")

    assert result.out == "Paris.\n"
    assert fake_gateway.bodies[0]["messages"][0]["content"] == "Say hello.\n"


def test_no_question_is_a_sentence(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("chat", "--gateway", fake_gateway.url, " ")

    assert result.status == 1
    assert result.err.startswith("meshserve: there is no question; write it like")


def test_an_error_of_the_gateway_is_its_sentence(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.chat_error = (400, {"error": {"message": "prompt has 9000 tokens; 'smollm2' takes 8192"}})

    result = run_cli("chat", "--gateway", fake_gateway.url, "long")

    assert (result.status, result.err) == (1, "meshserve: prompt has 9000 tokens; 'smollm2' takes 8192\n")


def test_an_answer_that_breaks_off_is_said(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.is_chat_broken_off = True

    result = run_cli("chat", "--gateway", fake_gateway.url, "hi")

    assert (result.status, result.out) == (1, "Paris.")
    assert "the answer broke off" in result.err


def test_without_a_language_model_the_served_ones_are_named(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.index = fake_gateway.index[1:]

    result = run_cli("chat", "--gateway", fake_gateway.url, "hi")

    assert result.status == 1
    assert "no language model is ready (served: iris)" in result.err


class Terminal(io.StringIO):
    """What a person types, line by line, at a terminal."""

    def isatty(self) -> bool:
        return True


def converse(run_cli: Any, fake_gateway: Any, monkeypatch: pytest.MonkeyPatch, *lines: str) -> Any:
    monkeypatch.setattr("sys.stdin", Terminal("".join(f"{line}\n" for line in lines)))
    return run_cli("chat", "--gateway", fake_gateway.url, "--system", "Be brief.")


def test_a_conversation_remembers_until_it_is_cleared(
    fake_gateway: Any, run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = converse(run_cli, fake_gateway, monkeypatch, "one", "two", "/clear", "three", "/exit", "four")

    assert result.status == 0
    said = [[message["content"] for message in body["messages"]] for body in fake_gateway.bodies]
    assert said == [["Be brief.", "one"], ["Be brief.", "one", "Paris.", "two"], ["Be brief.", "three"]]
    assert result.out.count("Paris.") == 3


def test_a_failed_exchange_does_not_end_the_conversation(
    fake_gateway: Any, run_cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_gateway.chat_error = (429, {"error": {"message": "the queue is full"}})

    result = converse(run_cli, fake_gateway, monkeypatch, "one", "two")

    assert result.status == 0
    assert result.err.count("the queue is full; try again in a few s") == 2
    assert [len(body["messages"]) for body in fake_gateway.bodies] == [2, 2]
