"""200 prompts that no part of the engine was made for: questions, code, lists, maths and talk, in many scripts.

`held_prompts.txt` has one a line. ⏎, ⇥ and ␠ stand for a line feed, a tab and a space at an end, which editors would
take away; a line that begins with > is the one turn of a chat, any other a text to go on with.
"""

from __future__ import annotations

from pathlib import Path

_FILE = Path(__file__).with_suffix(".txt")
_CHARACTERS = str.maketrans({"⏎": "\n", "⇥": "\t", "␠": " "})


def held_prompts() -> list[str]:
    """Each as the text that the model is given, with the markers of SmolLM2's chats where it is one."""
    lines = _FILE.read_text(encoding="utf-8").translate(_CHARACTERS | {ord("\n"): "\0"}).split("\0")[:-1]
    return [_chat(line[1:]) if line.startswith(">") else line for line in lines]


def _chat(text: str) -> str:
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
