"""Bars as SVG, one group for each setting: readable in a browser, in the dark as well, and without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#9d755d", "#bab0ac", "#e45756")
BAR, GAP, LABELS, WIDTH, TOP = 9, 10, 190, 640, 58


def bars(title: str, groups: Sequence[str], series: Mapping[str, Sequence[float]], limit: float) -> str:
    """An SVG document. series: a value for each group; one above `limit` is cut off there, and written out."""
    group_height = BAR * len(series) + GAP
    height = TOP + group_height * len(groups) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LABELS + WIDTH + 70} {height}" '
        'font-family="sans-serif" font-size="11" fill="#888">',
        f'<text x="4" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, name in enumerate(series):
        x = 4 + number * 125
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="39">{escape(name)}</text>')
    for row, group in enumerate(groups):
        y = TOP + row * group_height
        middle = y + (group_height - GAP) / 2 + 4
        parts.append(f'<text x="{LABELS - 8}" y="{middle:.0f}" text-anchor="end">{escape(group)}</text>')
        for number, values in enumerate(series.values()):
            value, top = values[row], y + number * BAR
            width = min(value, limit) / limit * WIDTH
            colour = COLOURS[number % len(COLOURS)]
            parts.append(f'<rect x="{LABELS}" y="{top}" width="{width:.1f}" height="{BAR - 1}" fill="{colour}"/>')
            if value > limit:
                parts.append(f'<text x="{LABELS + WIDTH + 4}" y="{top + BAR - 1}">{value:.0f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
