"""docs/observability.md: its commands run as they stand, and what it names is there."""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cli.__main__ import make_app
from predictor.llm.settings import EngineSettings
from predictor.llm.trace import main
from tests.predictor.llm.model_folders import write_folder

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "observability.md").read_text(encoding="utf-8")
PROMPTS = (
    "The quick brown fox jumps over\nThe quick brown fox sleeps under the old oak tree while\nCount: one, two, three,\n"
)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
TRACES = [command for command in COMMANDS if command.startswith("python -m predictor.llm.trace ")]


def test_the_traces_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "MODEL", changes={"vocab_size": 376})
    (tmp_path / "prompts.txt").write_text(PROMPTS)
    monkeypatch.chdir(tmp_path)
    outs = []

    for command in TRACES:
        # The page's numbers fit the tokens of SmolLM2; this tokenizer needs more of them.
        arguments = ["128" if word == "8" else word for word in shlex.split(command)[3:]]
        outs.append(io.StringIO())
        assert main(arguments, outs[-1]) == 0, capsys.readouterr().err

    assert len(outs) == 3
    assert "#2.1 ends" in outs[0].getvalue()
    assert outs[-1].getvalue().endswith("all the same\n")


def test_other_commands_are_verbs_of_meshserve() -> None:
    verbs = {command.name or command.callback.__name__ for command in make_app().registered_commands}  # type: ignore[union-attr]

    named = re.findall(r"meshserve (\w+)", PAGE)

    assert set(named) <= verbs
    assert "engine" in named


def test_what_it_names_is_there() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "predictor").rglob("*.py"))
    metrics = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    settings = set(EngineSettings.__dataclass_fields__)
    code: list[Any] = re.findall(r"`([^`\n]+)`", PAGE)

    assert {name for name in code if "/" in name and name.endswith(".py") and not (ROOT / name).exists()} == set()
    assert {name for name in code if name.startswith(("vllm:", "meshserve_")) and f"`{name}`" not in metrics} == set()
    assert {name for name in code if name.endswith(("_s", "_share", "kv_cache_bytes"))} <= settings
    events = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert len(events) == 5
    assert all(f'"{event}"' in source for event in events)
