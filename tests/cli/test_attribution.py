"""Attributions as bars and colours: the strongest in full, noise uncoloured, negative ones red."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from cli.attribution import attribution_table, coloured_prompt


def shown(drawing: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(drawing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_strongest_has_the_longest_bar_whatever_its_sign() -> None:
    lines = shown(
        attribution_table([{"name": "a", "value": -2.0}, {"name": "b", "value": 1.0}], "feature")
    ).splitlines()

    assert lines[1].count("█") == 24
    assert lines[2].count("█") == 12


def test_words_are_coloured_by_sign_and_strength() -> None:
    text = coloured_prompt(
        "yes no hum",
        [
            {"value": 1.0, "start": 0, "length": 3},
            {"value": -0.5, "start": 4, "length": 2},
            {"value": 0.01, "start": 7, "length": 3},
        ],
    )

    assert [(span.start, span.end, str(span.style)) for span in text.spans] == [
        (0, 3, "white on rgb(0,160,0)"),
        (4, 6, "white on rgb(100,0,0)"),
    ]


def test_nothing_to_attribute_is_no_error() -> None:
    assert "feature" in shown(attribution_table([], "feature"))
    assert coloured_prompt("text", [{"value": 0.0, "start": 0, "length": 4}]).spans == []
