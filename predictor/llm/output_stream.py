"""Outputs of one request on their way to its reader, who may be slower than the engine.

What the reader has not taken yet is joined, output by output, so there is nothing to bound: the tokens of a request are
the limit, and a slow reader gets fewer and larger pieces.
"""

from __future__ import annotations

import asyncio

from mesh.errors import MeshError
from predictor.llm.outputs import GenerationOutput, ScoreOutput


class OutputStream:
    """One writer and one reader, both on the same event loop."""

    def __init__(self, num_outputs: int = 1) -> None:
        self.num_unfinished = num_outputs
        self._pending: dict[int, GenerationOutput | ScoreOutput] = {}  # by index, longest unread first
        self._error: MeshError | None = None
        self._changed = asyncio.Event()

    @property
    def is_finished(self) -> bool:
        """True when the engine has nothing more to say."""
        return self.num_unfinished == 0

    def put(self, output: GenerationOutput | ScoreOutput) -> None:
        if isinstance(output, ScoreOutput):
            self._pending[0] = output
            self.num_unfinished = 0
        else:
            before = self._pending.get(output.index)
            joined = before.followed_by(output) if isinstance(before, GenerationOutput) else output
            self._pending[output.index] = joined
            self.num_unfinished -= output.finish_reason is not None
        self._changed.set()

    def fail(self, error: MeshError) -> None:
        """Have the reader get `error` after what is pending."""
        self._error = error
        self.num_unfinished = 0
        self._changed.set()

    async def get(self) -> GenerationOutput | ScoreOutput:
        """All that is new about one output. Waits until there is something; raises the error that ended the request."""
        while True:
            if self._pending:
                return self._pending.pop(next(iter(self._pending)))
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
