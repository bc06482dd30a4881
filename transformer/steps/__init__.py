"""The built-in steps of a deployment's transformer: one file and one row each."""

from __future__ import annotations

STEPS = {
    "chat_template": "transformer.steps.chat_template:ChatTemplate",
}
