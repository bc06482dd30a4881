"""The README's commands and code, run as they stand, against a mesh started by its first command, `make up`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.running import ROOT, START_S, Mesh, eventually

README = (ROOT / "README.md").read_text(encoding="utf-8")
# `make test` is the command that runs this.
RUN_ELSEWHERE = ("make up", "make test")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    return [block for block in found if not block.startswith(RUN_ELSEWHERE)]


@pytest.fixture(scope="module")
def mesh_by_make(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    folder = tmp_path_factory.mktemp("make-up")
    output = folder / "up.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["make", "up", f"ARGS=--state-dir {folder}/state --free-ports"],
            cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    mesh = Mesh(process, folder / "state", output)
    eventually(mesh.is_ready, START_S, "`make up` serves both models")
    yield mesh
    # A terminal sends Ctrl-C to all processes in front.
    os.killpg(process.pid, signal.SIGINT)
    process.wait(40)


def run(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def at(mesh: Mesh, text: str) -> str:
    """A text that means the default mesh, meaning `mesh`."""
    text = text.replace("http://127.0.0.1:8080", mesh.url).replace("127.0.0.1:8081", mesh.grpc_address)
    return re.sub(r"(\.venv/bin/meshserve \w+)", rf"\1 --state-dir {mesh.state_dir}", text)


def test_readme_has_the_two_commands_on_its_first_screen() -> None:
    first_screen = "\n".join(README.splitlines()[:40])

    assert "make up" in first_screen
    assert "make test" in first_screen


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("bash"))
def test_readme_command_works(mesh_by_make: Mesh, block: str) -> None:
    assert run(["bash", "-ec", at(mesh_by_make, block)]).strip()


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks("python"))
def test_readme_code_works(mesh_by_make: Mesh, block: str, tmp_path: Path) -> None:
    program = tmp_path / "readme.py"
    program.write_text(at(mesh_by_make, block))

    assert run([str(ROOT / ".venv/bin/python"), str(program)]).strip()


@pytest.mark.slow
def test_commands_that_up_prints_work(mesh_by_make: Mesh) -> None:
    printed = eventually(lambda: commands_in(mesh_by_make.output.read_text()), 30, "`up` prints three commands")

    assert len(printed) == 3
    for command in printed:
        assert run(["bash", "-ec", command]).strip()


def commands_in(text: str) -> list[str]:
    """The indented lines of `up` that are commands."""
    return [line.strip() for line in text.splitlines() if re.match(r"\s+(\S*/)?(meshserve|curl) ", line)]


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?)`", (ROOT / page).read_text(encoding="utf-8")))

    assert {name for name in named if not (ROOT / name).exists() and "<" not in name} == set()
