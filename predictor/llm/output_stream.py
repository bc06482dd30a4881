"""Outputs of one request on their way to its reader, who may be slower than the engine.

What the reader has not taken yet is joined into one output, so there is nothing to bound: the tokens of a request are
the limit, and a slow reader gets fewer and larger pieces.
"""

from __future__ import annotations

import asyncio

from mesh.errors import MeshError
from predictor.llm.outputs import GenerationOutput, ScoreOutput


class OutputStream:
    """One writer and one reader, both on the same event loop."""

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.is_finished = False  # the engine has nothing more to say
        self._pending: GenerationOutput | ScoreOutput | None = None
        self._error: MeshError | None = None
        self._changed = asyncio.Event()

    def put(self, output: GenerationOutput | ScoreOutput) -> None:
        if isinstance(self._pending, GenerationOutput) and isinstance(output, GenerationOutput):
            output = self._pending.followed_by(output)
        self._pending = output
        self.is_finished = isinstance(output, ScoreOutput) or output.finish_reason is not None
        self._changed.set()

    def fail(self, error: MeshError) -> None:
        """Have the reader get `error` after what is pending."""
        self._error = error
        self.is_finished = True
        self._changed.set()

    async def get(self) -> GenerationOutput | ScoreOutput:
        """All that is new. Waits until there is something; raises the error that ended the request."""
        while True:
            pending, self._pending = self._pending, None
            if pending is not None:
                return pending
            if self._error is not None:
                raise self._error
            self._changed.clear()
            await self._changed.wait()
