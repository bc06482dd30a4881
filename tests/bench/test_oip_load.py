"""Loads in parts and together, and h2load's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.oip.h2load import H2Load
from bench.oip.load import BadLoad, Load, Run, joined, parts

OUTPUT = """finished in 250.50ms, 8.00 req/s, 1.00KB/s
requests: 2 total, 2 started, 2 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
status codes: 2 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 1.10KB (1129) total, 152B (152) headers (space savings 90.00%), {data}B ({data}) data
"""


def test_a_load_in_parts_is_the_same_load() -> None:
    assert parts(Load(1000, 8), 2) == [Load(500, 4), Load(500, 4)]
    assert parts(Load(1000, 1), 2) == [Load(1000, 1)]
    assert joined([Run(2.0, (1.0, 0.5)), Run(3.0, (2.0,))]) == Run(3.0, (1.0, 0.5, 2.0))


def _read(tmp_path: Path, succeeded: int = 2, data: int = 30) -> Run:
    log = tmp_path / "log.tsv"
    log.write_text("1764000000000000\t200\t1500\n1764000000000100\t200\t2500\n", encoding="utf-8")
    client = H2Load(is_grpc=True, request=b"", response_bytes=10)
    return client._read(OUTPUT.format(succeeded=succeeded, data=data), log, Load(2, 1))


def test_what_h2load_prints_is_read(tmp_path: Path) -> None:
    assert _read(tmp_path) == Run(0.2505, (0.0015, 0.0025))


@pytest.mark.parametrize(
    ("succeeded", "data", "says"), [(1, 30, "1 of 2 requests failed"), (2, 10, "10 bytes in all, where 15 each")]
)
def test_what_went_wrong_is_said(tmp_path: Path, succeeded: int, data: int, says: str) -> None:
    with pytest.raises(BadLoad, match=says):
        _read(tmp_path, succeeded, data)


def test_words_that_are_not_h2load_s_are_shown(tmp_path: Path) -> None:
    with pytest.raises(BadLoad, match="Could not resolve"):
        H2Load(is_grpc=True, request=b"", response_bytes=10)._read("Could not resolve", tmp_path, Load(2, 1))
