"""docs/engine.md says what the engine does: its snippets print what stands under them, and what it names exists."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "engine.md"
TEXT = PAGE.read_text(encoding="utf-8")

# Blocks torch in a fresh interpreter, then runs the snippets that are given on standard input.
WITHOUT_TORCH = """
import doctest, sys
sys.modules["torch"] = None
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {}, "engine.md", None, 0)
sys.exit(doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed)
"""


def snippets() -> str:
    """The page with everything blanked but its python blocks, so that line numbers stay the page's own."""
    kept: list[str] = []
    is_python = False
    for line in TEXT.splitlines():
        is_fence = line.startswith("```")
        is_python = line == "```python" if is_fence else is_python
        kept.append(line if is_python and not is_fence else "")
    return "\n".join(kept) + "\n"


def test_snippets_print_what_the_page_says() -> None:
    parser = doctest.DocTestParser()
    # Printed values are folded on the page; any run of blanks stands for any other.
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
    report: list[str] = []

    results = runner.run(parser.get_doctest(snippets(), {}, "engine.md", str(PAGE), 0), out=report.append)

    assert results.failed == 0, "".join(report)
    assert results.attempted > 30


def test_the_scheduler_runs_without_torch() -> None:
    before_torch, _, _ = snippets().partition(">>> import torch")

    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH], input=before_torch, cwd=ROOT, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_files_that_the_page_names_exist() -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]*(?:\.[a-z]+)?)`", TEXT))
    missing = {name for name in named if not ((ROOT / name).exists() or (ROOT / "tests/predictor/llm" / name).exists())}

    assert missing == set()


def test_tests_that_the_page_names_exist() -> None:
    rows = re.findall(r"`((?:layers/)?test_\w+\.py)`: ((?:`test_\w+`(?:, )?)+)", TEXT)
    named = [(file, name) for file, names in rows for name in re.findall(r"`(test_\w+)`", names)]

    missing = [
        (file, name)
        for file, name in named
        if f"def {name}(" not in (ROOT / "tests/predictor/llm" / file).read_text(encoding="utf-8")
    ]

    assert len(named) >= 8
    assert missing == []


def test_tests_that_the_table_of_failures_names_exist() -> None:
    section = TEXT.split("## What bites users of other engines")[1].split("\n## ")[0]
    rows = [row for row in section.splitlines() if row.startswith("| ")][1:]
    named = [re.findall(r"`(tests/[\w/]+\.py)`: ((?:`test_\w+`(?:, )?)+)", row) for row in rows]

    assert len(rows) >= 14
    for row, files in zip(rows, named, strict=True):
        assert files, f"names no test: {row}"
        # Nothing in the row may be spelled so that it is not looked up.
        assert sum(1 + names.count("`test_") for _, names in files) == row.count("`") // 2, row
        for file, names in files:
            source = (ROOT / file).read_text(encoding="utf-8")
            assert all(f"def {name}(" in source for name in re.findall(r"`(test_\w+)`", names)), f"{file}: {names}"


def test_the_picture_is_well_formed_and_has_a_text() -> None:
    (source,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", TEXT)
    picture = ElementTree.parse(PAGE.parent / source).getroot()

    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    assert picture.findtext("{http://www.w3.org/2000/svg}desc")
