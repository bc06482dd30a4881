"""What a process prints becomes lines, cut and counted."""

from __future__ import annotations

from predictor.runtimes.python.output import MAX_LINE_BYTES, OutputLines


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def collected(clock: Clock, max_lines_per_s: int = 100) -> tuple[OutputLines, list[str], list[int]]:
    lines: list[str] = []
    dropped: list[int] = []
    return OutputLines(lines.append, dropped.append, max_lines_per_s=max_lines_per_s, now=clock), lines, dropped


def test_lines_are_put_together_from_pieces() -> None:
    output, lines, _ = collected(Clock())

    for piece in (b"one\ntw", b"o\r\n", b"\xff", b"end"):
        output.feed(piece)
    output.close()

    assert lines == ["one", "two", "�end"]


def test_a_line_without_end_is_cut_and_takes_no_memory() -> None:
    output, lines, _ = collected(Clock())

    for _ in range(100):
        output.feed(b"x" * 1000)
    output.feed(b"\nnext\n")

    assert lines == ["x" * MAX_LINE_BYTES + "…", "next"]


def test_a_flood_is_counted_instead_of_told() -> None:
    clock = Clock()
    output, lines, dropped = collected(clock, max_lines_per_s=2)

    output.feed(b"a\n" * 5)
    clock.now = 1.5
    output.feed(b"b\n" * 3)
    output.close()

    assert lines == ["a", "a", "b", "b"]
    assert dropped == [3, 1]
