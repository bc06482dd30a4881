"""The house rules that a linter does not know: sizes, names, one place that reads the environment, a test each."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mesh", "gateway", "transformer", "predictor", "explainer", "registry", "cli", "deploy", "examples")
GENERATED = (ROOT / "mesh" / "oip", ROOT / "mesh" / "orca", ROOT / "mesh" / "v1")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}


def modules() -> Iterator[Path]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not any(path.is_relative_to(folder) for folder in GENERATED):
                yield path


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


MODULES = pytest.mark.parametrize("path", list(modules()), ids=relative)


@MODULES
def test_file_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@MODULES
def test_functions_are_short_enough_to_read(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno is not None}

    assert {name: lines for name, lines in long.items() if lines > MAX_FUNCTION_LINES} == {}


@MODULES
def test_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module opens with a docstring"


@MODULES
def test_module_has_the_name_of_a_noun(path: Path) -> None:
    assert not BANNED_NAMES & set(path.relative_to(ROOT).with_suffix("").parts)


@MODULES
def test_only_settings_reads_the_environment(path: Path) -> None:
    if relative(path) == "mesh/settings.py":
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    reads = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in {"getenv", "environ"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and not _is_passed_to_a_child(node, tree)
    ]

    assert reads == []


def _is_passed_to_a_child(node: ast.Attribute, tree: ast.AST) -> bool:
    """`{**os.environ, …}`: the environment of a child process is ours plus something; no setting is read from it."""
    return any(isinstance(outer, ast.Dict) and None in outer.keys and node in outer.values for outer in ast.walk(tree))


def is_port(path: Path) -> bool:
    """Whether a module holds nothing that runs: only Protocols and constants. Their implementations have the tests."""
    definitions = [
        node
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return bool(definitions) and all(
        isinstance(node, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in node.bases)
        for node in definitions
    )


def test_every_module_has_a_test() -> None:
    tested = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    untested = [
        relative(path)
        for path in modules()
        if path.name not in {"__init__.py", "__main__.py"}
        and not is_port(path)
        and not {f"test_{path.stem}.py", f"test_{path.parent.name}_{path.stem}.py"} & tested
        and f"test_{path.parent.name}.py" not in tested
    ]

    assert untested == []
