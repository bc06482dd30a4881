"""A table of figures, for a terminal or as Markdown. Knows no benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from bench.spread import Spread

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table, of whatever kind it is shown as."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [f"**{self.title}**", "", *map(_markdown_row, (self.columns, ("---",) * len(self.columns), *self.rows))]
        return "\n".join(lines)

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table


def _markdown_row(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def cell(spread: Spread | None, digits: int | None = None, *, percent: bool = False) -> str:
    """Median, and least and greatest where they differ; with a star where others had much of the machine."""
    if spread is None:
        return NOTHING
    show: Callable[[float], str] = _percent if percent else lambda value: number(value, digits)
    median, least, greatest = show(spread.median), show(spread.least), show(spread.greatest)
    text = median if least == greatest else f"{median} ({least}–{greatest})"
    return text + ("*" if spread.is_polluted else "")


def _percent(value: float) -> str:
    return f"{value:.0%}"


def number(value: float, digits: int | None = None) -> str:
    """With `digits` decimals; by default, one below 100 and none above."""
    return f"{value:,.{(1 if value < 100 else 0) if digits is None else digits}f}"
