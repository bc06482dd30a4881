"""How a command fails: one sentence that says what is wrong, and what to do next. Never a stack."""

from __future__ import annotations


class Failure(Exception):
    """Ends the command with status 1. `advice` is what the person can do about it; empty when there is nothing."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.what}; {self.advice}" if self.advice else self.what
