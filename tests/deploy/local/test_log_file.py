"""A log stays below its limit, and a disk that refuses costs lines only."""

from __future__ import annotations

from pathlib import Path

from deploy.local.log_file import LogFile


def test_lines_are_appended_over_restarts(tmp_path: Path) -> None:
    for word in (b"first", b"second"):
        log = LogFile(tmp_path / "logs" / "gateway.log")
        log.write(word)
        log.close()

    assert (tmp_path / "logs" / "gateway.log").read_bytes() == b"first\nsecond\n"


def test_a_full_file_becomes_the_old_one_and_the_older_one_goes(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "gateway.log", max_bytes=10)

    for number in range(100):
        log.write(b"line %d" % number)
    log.close()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["gateway.log", "gateway.log.1"]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 2 * (10 + len(b"line 99\n"))
    assert (tmp_path / "gateway.log").read_bytes().endswith(b"line 99\n")


def test_a_disk_that_refuses_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    log = LogFile(tmp_path / "logs" / "gateway.log")

    log.write(b"lost")

    log.close()
