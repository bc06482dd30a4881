"""How models call tools: one row for each form that templates teach.

A model's template decides which row it is (`dialect.py`); models whose template knows no tools learn Hermes from us.
"""

from __future__ import annotations

FORMATS = {
    "hermes": "transformer.tools.hermes:Hermes",
    "llama3": "transformer.tools.llama3:Llama3",
}
