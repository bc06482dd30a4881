"""docs/faults.md: every fault has the test that it names, and the settings are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mesh.settings import CallingServiceSettings

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE)


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_the_named_test_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_every_row_has_a_test_and_every_setting_is_one() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| a replica that |")]

    assert len(rows) + 1 == len(TESTS), "and one for the registry"
    named = {"max_in_flight_per_replica", "max_queued", "queue_timeout_s", "hold_s", "hedge_after_ms"}
    assert named <= set(re.findall(r"`(\w+)`", PAGE)) & set(CallingServiceSettings.model_fields)
