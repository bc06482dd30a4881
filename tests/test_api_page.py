"""docs/api.md: what it is made of, and that no field of a stock client is missing."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from docs.api_page import ROUTES, api_page
from tests.interop import environments

PAGE = api_page()


def rows_of(path: str) -> dict[str, str]:
    """Each field of a route and the word about it."""
    section = PAGE.partition(f"\n## {path}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (served|refused|ignored) \|", section, re.MULTILINE))


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_each_field_of_a_route_has_one_row(route: object) -> None:
    path = route.path  # type: ignore[attr-defined]
    section = PAGE.partition(f"\n## {path}\n")[2].partition("\n## ")[0]

    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert names
    assert len(names) == len(set(names))


def test_rows_say_what_the_code_does() -> None:
    responses = rows_of("/v1/responses")

    assert (responses["input"], responses["store"], responses["user"]) == ("served", "refused", "ignored")
    assert "| `top_logprobs` | served | integer (from 0 to 20) |" in PAGE
    assert '| `truncation` | refused | only `"disabled"` |' in PAGE


@pytest.mark.slow
def test_messages_have_a_row_for_every_field_of_the_stock_client() -> None:
    try:
        python = environments.python_of(environments.ready("sdk"))
    except environments.CannotInstall as error:
        pytest.skip(str(error))
    program = (
        "import json; from anthropic.types import message_count_tokens_params as c, message_create_params as m; "
        "print(json.dumps([sorted(m.MessageCreateParamsBase.__annotations__), "
        "sorted(c.MessageCountTokensParams.__annotations__)]))"
    )
    done = subprocess.run([str(python), "-c", program], capture_output=True, text=True, timeout=100, check=True)
    messages, counted = json.loads(done.stdout)

    assert set(messages) - rows_of("/v1/messages").keys() == set()
    assert set(counted) - rows_of("/v1/messages/count_tokens").keys() == set()


def test_page_is_beside_its_source() -> None:
    written = Path(__file__).resolve().parent.parent / "docs" / "api.md"

    assert written.read_text(encoding="utf-8") == PAGE
