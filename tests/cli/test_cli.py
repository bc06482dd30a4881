"""The command as a whole: every verb has help with examples, and nothing ends in a stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cli import catalog
from cli.failure import Failure

ROOT = Path(__file__).parents[2]
VERBS = ("up", "chat", "infer", "explain", "status", "models", "engine", "traffic", "promote", "rollback")


def test_the_command_without_a_verb_lists_the_verbs(run_cli: Any) -> None:
    result = run_cli()

    assert all(f"  {verb} " in result.out + result.err for verb in VERBS)


def test_the_version_is_printed(run_cli: Any) -> None:
    result = run_cli("--version")

    assert result.status == 0
    assert result.out.startswith("meshserve ")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(run_cli: Any, verb: str) -> None:
    result = run_cli(verb, "--help")

    assert result.status == 0
    assert "Examples:" in result.out
    assert f"meshserve {verb}" in result.out


def test_a_failure_reads_as_what_and_what_to_do() -> None:
    assert str(Failure("it is broken", "mend it")) == "it is broken; mend it"
    assert str(Failure("it is broken")) == "it is broken"


def test_what_nobody_foresaw_is_a_sentence_too(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.index = [{"name": "iris"}, {"odd": 1}]

    result = run_cli("models", "--gateway", fake_gateway.url)

    assert result.status == 1
    assert result.err == "meshserve: unexpected KeyError: 'name'; this is a bug, --traceback shows where\n"


def test_an_error_of_the_mesh_ends_up_with_status_1(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("deployments: 3")
    command = [sys.executable, "-m", "cli", "up", "-f", str(tmp_path / "mine.yaml"), "--state-dir", str(tmp_path / "s")]

    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)

    assert result.returncode == 1
    assert result.stderr == f"meshserve: {tmp_path / 'mine.yaml'}: deployments must be a list\n"


def test_the_command_starts_without_the_heavy_libraries() -> None:
    code = "import sys, cli.__main__; print([name for name in ('torch', 'sklearn', 'grpc') if name in sys.modules])"

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)

    assert result.stdout == "[]\n"


def test_the_first_language_model_is_the_one_to_chat_with(fake_gateway: Any) -> None:
    from cli.gateway_client import GatewayClient

    with GatewayClient(fake_gateway.url, timeout_s=10) as client:
        assert catalog.chat_model(client, None) == "smollm2"
        assert catalog.chat_model(client, "mine") == "mine"
