"""What the runtimes of text encoders share: options, texts out of tensors, and the computation batch by batch.

A request is many small jobs on one thread: one for each slice of its texts to be cut into tokens, and one for each
batch. Requests take turns at jobs, so that a long one holds up no other for more than a batch, and one that is
cancelled ends after the job that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from mesh.errors import InvalidInput, Overloaded
from predictor.encoder.batches import Batch, Encoding, batches_of
from predictor.encoder.folder import DTYPES
from predictor.encoder.tokenizer import EncoderTokenizer, Input
from predictor.runtimes.compute import ComputePool

T = TypeVar("T")

# Texts are cut into tokens so many characters at a time: some 20 ms of work.
_SLICE_CHARS = 1 << 16
_RANGES = {
    "max_tokens": (0, 1 << 20),
    "max_text_bytes": (1, 64 << 20),
    "max_batch_size": (1, 1 << 16),
    "max_batch_tokens": (1, 1 << 20),
    "num_threads": (1, 64),
    "max_pending": (1, 1 << 16),
}


@dataclass(frozen=True, slots=True)
class EncodingOptions:
    """max_tokens: of one input; 0: as the model's files say. truncate: longer inputs are cut, not refused.
    max_text_bytes: of one text, before it is cut. max_batch_size: inputs in one request. max_batch_tokens: computed
    together. num_threads: CPU threads of one batch. max_pending: requests that run or wait. dtype: of weights and
    activations, float32 or bfloat16.
    """

    max_tokens: int = 0
    truncate: bool = False
    max_text_bytes: int = 256 << 10
    max_batch_size: int = 2048
    max_batch_tokens: int = 1024
    num_threads: int = 1
    max_pending: int = 256
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise InvalidInput(f"option '{name}' is {getattr(self, name)}; it must be {low} to {high}", field=name)
        check_choice("dtype", self.dtype, DTYPES)

    def activation_bytes(self, hidden_size: int, intermediate_size: int) -> int:
        """What one batch takes of memory while it is computed, roughly: a few tensors of each width, in float32."""
        return 4 * self.max_batch_tokens * (8 * hidden_size + 2 * intermediate_size)


def check_choice(name: str, value: str, choices: Sequence[str] | dict[str, T]) -> None:
    """Raise InvalidInput unless the option `name` has one of `choices`."""
    if value not in choices:
        raise InvalidInput(f"option '{name}' is '{value}'; it must be one of {', '.join(choices)}", field=name)


class EncodingJobs:
    """Runs a model on texts: `compute` gives one row for each text of a batch, float32 [texts, width]."""

    def __init__(
        self,
        model: str,
        options: EncodingOptions,
        tokenizer: EncoderTokenizer,
        compute: Callable[[Batch], torch.Tensor],
        *,
        width: int,
    ) -> None:
        """model: its name, for errors and threads."""
        self._name = f"model '{model}'"
        self._options = options
        self._tokenizer = tokenizer
        self._compute = compute
        self._width = width
        self._num_requests = 0
        # A request has one job at a time; one more is for the job of a request that was cancelled.
        self._pool = ComputePool(self._name, num_threads=1, max_pending=options.max_pending + 1)

    async def run(self, inputs: Sequence[Input], field: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows, [len(inputs), width], and numbers of tokens, [len(inputs)], in the order of `inputs`.

        Raises PromptTooLong that names `field`, and Overloaded.
        """
        rows = np.empty((len(inputs), self._width), dtype=np.float32)
        encodings: list[Encoding] = []
        with self._admitted():
            for part in _slices(inputs):
                encodings += await self._pool.run(partial(self._tokenizer.encode, part, field, len(encodings)))
            for batch in batches_of(encodings, self._options.max_batch_tokens):
                rows[list(batch.indices)] = await self._pool.run(partial(self._rows, batch))
        return rows, np.array([one.num_tokens for one in encodings], dtype=np.int64)

    def close(self) -> None:
        """Drop what waits. Safe to call twice."""
        self._pool.close()

    def _rows(self, batch: Batch) -> NDArray[np.float32]:
        # The number belongs to the thread, so other runtimes in this process keep theirs.
        torch.set_num_threads(self._options.num_threads)
        with torch.inference_mode():
            return self._compute(batch).numpy()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        """Refuses a request at its beginning, never in its middle."""
        if self._num_requests >= self._options.max_pending:
            raise Overloaded(f"{self._name} has {self._num_requests} requests waiting, as many as it takes")
        self._num_requests += 1
        try:
            yield
        finally:
            self._num_requests -= 1


def texts_of(elements: NDArray[Any], field: str, max_bytes: int) -> list[str]:
    """The elements of a BYTES tensor as texts. Raises InvalidInput for one that is too long or no UTF-8."""
    texts = []
    for index, element in enumerate(elements.tolist()):
        if len(element) > max_bytes:
            raise InvalidInput(
                f"{field}[{index}] has {len(element)} bytes; the model takes {max_bytes}", field=f"{field}[{index}]"
            )
        try:
            texts.append(element.decode())
        except UnicodeDecodeError as error:
            raise InvalidInput(
                f"{field}[{index}] is no UTF-8: its byte {error.start} fits nowhere", field=f"{field}[{index}]"
            ) from None
    return texts


def _slices(inputs: Sequence[Input]) -> Iterator[list[Input]]:
    """All inputs in order, some thousand characters at a time."""
    part: list[Input] = []
    num_chars = 0
    for one in inputs:
        part.append(one)
        num_chars += len(one) if isinstance(one, str) else len(one[0]) + len(one[1])
        if num_chars >= _SLICE_CHARS:
            yield part
            part, num_chars = [], 0
    if part:
        yield part
