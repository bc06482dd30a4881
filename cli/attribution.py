"""An explanation on a terminal: a table with bars for features, the prompt itself with coloured words for text.

Green speaks for the answer, red against it; the strongest attribution has the full colour. Where there are no colours
the table says the same.
"""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_BAR_CELLS = 24
_MAX_WORDS = 8
# Below this share of the strongest attribution a word is left uncoloured: what remains is noise.
_LEAST_SHARE = 0.05


def explanation_drawing(explanation: Any, row: int) -> RenderableType:
    """One explanation of the gateway's answer, as it goes on a terminal."""
    attributions = explanation["attributions"]
    prompt = explanation.get("rendered_prompt", "")
    title = Text.assemble(("answer ", "dim"), (str(explanation["target"]), "bold"))
    kind = "log-probability" if prompt else "score"
    title.append_text(Text(f"  {kind} {explanation['score']:.4g}", style="dim"))
    if explanation.get("base_score") is not None:
        title.append_text(Text(f", {explanation['base_score']:.4g} without any feature", style="dim"))
    if prompt:
        strongest = sorted(attributions, key=lambda each: -abs(each["value"]))[:_MAX_WORDS]
        return Group(title, coloured_prompt(prompt, attributions), Text(), attribution_table(strongest, "word"))
    title = Text.assemble((f"row {row}: ", "dim"), title)
    return Group(title, attribution_table(attributions, "feature"))


def attribution_table(attributions: list[Any], heading: str) -> Table:
    """One row per attribution, with a bar whose length is its share of the strongest."""
    largest = _largest(attributions)
    table = Table(heading, "value", "", box=None, header_style="bold", pad_edge=False)
    for each in attributions:
        value = float(each["value"])
        bar = "█" * round(_BAR_CELLS * abs(value) / largest)
        table.add_row(Text(str(each["name"]).strip()), f"{value:+.4f}", Text(bar, style=_colour(value)))
    return table


def coloured_prompt(prompt: str, attributions: list[Any]) -> Text:
    """The prompt with each attributed word on a background that says how much it counts."""
    text, largest = Text(prompt.rstrip()), _largest(attributions)
    for each in attributions:
        share = float(each["value"]) / largest
        if abs(share) >= _LEAST_SHARE:
            start = int(each.get("start", 0))
            text.stylize(_background(share), start, start + int(each.get("length", 0)))
    return text


def _largest(attributions: list[Any]) -> float:
    return max((abs(float(each["value"])) for each in attributions), default=0.0) or 1.0


def _colour(value: float) -> str:
    return "green" if value >= 0 else "red"


def _background(share: float) -> str:
    """From nearly black to the full colour, with white letters on it."""
    level = round(40 + 120 * min(abs(share), 1.0))
    return f"white on rgb({0 if share > 0 else level},{level if share > 0 else 0},0)"
