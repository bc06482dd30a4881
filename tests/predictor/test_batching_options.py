"""Options that say how requests are joined, apart from those of the runtime."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from mesh.errors import InvalidInput
from predictor.batching_options import BatchingOptions, split_options


def test_options_are_parted_between_batching_and_the_runtime() -> None:
    batching, others = split_options({"batching_delay_us": "250", "max_batch_size": "8", "batching": "false"})

    assert batching == BatchingOptions(batching=False, batching_delay_us=250)
    assert others == {"max_batch_size": "8"}


def test_without_options_requests_are_joined_and_never_delayed() -> None:
    assert split_options({}) == (BatchingOptions(batching=True, batching_delay_us=0), {})


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("batching_rows", "8", "option 'batching_rows' is unknown; known are batching, batching_concurrency"),
        ("batching", "maybe", "option 'batching' is 'maybe'; it must be of type bool"),
        ("batching_max_rows", "-1", "option 'batching_max_rows' is -1; it must be 0 to 1048576"),
        ("batching_max_bytes", "0", "it must be 1 to 1073741824"),
        ("batching_delay_us", "1e3", "option 'batching_delay_us' is '1e3'; it must be of type int"),
        ("batching_delay_us", "10000001", "it must be 0 to 10000000"),
        ("batching_max_waiting", "0", "it must be 1 to 65536"),
        ("batching_concurrency", "65", "it must be 1 to 64"),
    ],
)
def test_a_wrong_option_is_named_with_what_it_takes(name: str, text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence) as refusal:
        split_options({name: text})

    assert refusal.value.field in (name, "options")


def test_the_page_has_every_option_with_its_default() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "batching.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(batching\w*)` \| (\w+) \|", page, re.MULTILINE)

    assert rows == [(field.name, str(field.default).lower()) for field in fields(BatchingOptions)]
