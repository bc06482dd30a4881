"""What the encoders' runtimes share: options, texts out of tensors, and turns between requests."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest
import torch

from mesh.errors import InvalidInput, Overloaded, PromptTooLong
from predictor.encoder.batches import Batch
from predictor.encoder.tokenizer import EncoderTokenizer
from predictor.runtimes.encoding import EncodingJobs, EncodingOptions, texts_of
from tests.predictor.small_encoders import bert_tokenizer


class Model:
    """Answers each text with its length, once it may; remembers the batches and their number of threads."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.num_threads: set[int] = set()
        self.computing = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()

    def compute(self, batch: Batch) -> torch.Tensor:
        self.computing.set()
        assert self.may_go_on.wait(30)
        self.num_threads.add(torch.get_num_threads())
        lengths = [run.length for run in batch.runs for _ in range(run.num_texts)]
        self.batches.append(lengths)
        return torch.tensor(lengths, dtype=torch.float32)[:, None]


def jobs(model: Model, **changes: Any) -> EncodingJobs:
    options = EncodingOptions(**changes)
    tokenizer = EncoderTokenizer(bert_tokenizer(), max_tokens=options.max_tokens or 500, truncates=False)
    return EncodingJobs("small", options, tokenizer, model.compute, width=1)


async def test_rows_come_in_the_callers_order_from_batches_sorted_by_length() -> None:
    model = Model()
    made = jobs(model, max_batch_tokens=10, num_threads=2)

    rows, num_tokens = await made.run(["a dog", "a", "a dog a dog a dog", "", "cat"], "text")

    assert rows[:, 0].tolist() == num_tokens.tolist() == [4, 3, 8, 2, 3]
    assert model.batches == [[2, 3, 3], [4], [8]]
    assert model.num_threads == {2}
    assert (rows.dtype, num_tokens.dtype) == (np.float32, np.int64)


async def test_no_texts_are_no_rows() -> None:
    rows, num_tokens = await jobs(Model()).run([], "text")

    assert (rows.shape, num_tokens.shape) == ((0, 1), (0,))


async def test_index_in_an_error_counts_over_all_slices() -> None:
    texts = ["a" * 40_000] * 4 + ["a dog a dog"]

    with pytest.raises(PromptTooLong, match=r"text\[4\] has 6 tokens; the model takes 5"):
        await jobs(Model(), max_tokens=5).run(texts, "text")


async def test_short_request_does_not_wait_for_all_batches_of_a_long_one() -> None:
    model = Model()
    made = jobs(model, max_batch_tokens=3)
    model.may_go_on.clear()
    long = asyncio.create_task(made.run(["a"] * 50, "text"))
    assert await asyncio.to_thread(model.computing.wait, 30)
    short = asyncio.create_task(made.run(["a dog"], "text"))
    await asyncio.sleep(0)
    model.may_go_on.set()

    await short

    assert len(model.batches) < 10
    rows, _ = await long
    assert rows[:, 0].tolist() == [3] * 50


async def test_cancelled_request_ends_after_its_running_batch() -> None:
    model = Model()
    made = jobs(model, max_batch_tokens=3, max_pending=1)
    model.may_go_on.clear()
    cancelled = asyncio.create_task(made.run(["a"] * 50, "text"))
    assert await asyncio.to_thread(model.computing.wait, 30)

    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    model.may_go_on.set()
    await made.run(["a dog"], "text")

    assert model.batches == [[3], [4]]


async def test_request_beyond_the_limit_is_refused_at_once_and_the_others_end_well() -> None:
    model = Model()
    made = jobs(model, max_pending=2)
    model.may_go_on.clear()
    running = [asyncio.create_task(made.run(["a"], "text")) for _ in range(2)]
    assert await asyncio.to_thread(model.computing.wait, 30)

    with pytest.raises(Overloaded, match="model 'small' has 2 requests waiting, as many as it takes"):
        await made.run(["a"], "text")

    model.may_go_on.set()
    for rows, _ in await asyncio.gather(*running):
        assert rows.tolist() == [[3]]


def test_texts_are_utf8_within_their_limit() -> None:
    assert texts_of(np.array(["é".encode(), b""], dtype=object), "text", 2) == ["é", ""]


@pytest.mark.parametrize(
    ("element", "message"),
    [(b"abc", r"text\[1\] has 3 bytes; the model takes 2"), (b"a\xff", r"text\[1\] is no UTF-8: its byte 1")],
)
def test_text_that_is_none_is_refused_by_its_place(element: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        texts_of(np.array([b"", element], dtype=object), "text", 2)

    assert caught.value.field == "text[1]"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", -1, "'max_tokens' is -1; it must be 0 to"),
        ("max_text_bytes", 0, "'max_text_bytes' is 0; it must be 1 to"),
        ("max_batch_size", 1 << 17, "'max_batch_size' is 131072; it must be 1 to 65536"),
        ("max_batch_tokens", 0, "'max_batch_tokens' is 0"),
        ("num_threads", 65, "'num_threads' is 65; it must be 1 to 64"),
        ("max_pending", 0, "'max_pending' is 0"),
        ("dtype", "int3", "'dtype' is 'int3'; it must be one of float32, bfloat16"),
    ],
)
def test_option_out_of_its_range_is_refused(name: str, value: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        EncodingOptions(**{name: value})

    assert caught.value.field == name


def test_memory_of_a_batch_follows_its_tokens() -> None:
    small, large = (EncodingOptions(max_batch_tokens=n).activation_bytes(384, 1536) for n in (1024, 2048))

    assert large == 2 * small > 1024 * 1536 * 4
