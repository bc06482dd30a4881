"""Which format a model calls tools in: decided here, by its chat template alone.

1. A template that shows `tools` and teaches a format of the table: that format. Tools, calls and tool results go into
   the template as `transformers` passes them.
2. Any other template (it knows no tools, or a format that is not in the table): Hermes. The template gets none of
   them, but messages that `spelling.py` wrote in their place, so that what the model reads and what it shall write
   are one format.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.plugins import load
from transformer.tools import FORMATS
from transformer.tools.format import ToolFormat
from transformer.tools.hermes import Hermes


@dataclass(frozen=True, slots=True)
class Dialect:
    """is_native: the template teaches the format itself."""

    format: ToolFormat
    is_native: bool


def dialect_of(template: str) -> Dialect:
    """Cost is linear in the template, which is hostile."""
    for name in FORMATS:
        tool_format: ToolFormat = load(FORMATS, name, "tool format")()
        if tool_format.is_spoken_by(template):
            return Dialect(tool_format, is_native=True)
    return Dialect(Hermes(), is_native=False)
