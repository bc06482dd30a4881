"""A stream joins what its reader has not taken, and gives an error only after the outputs before it."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from mesh.errors import Unavailable
from predictor.llm.output_stream import OutputStream
from predictor.llm.outputs import GenerationOutput, Usage
from predictor.llm.sequence import FinishReason
from predictor.llm.step import TokenLogprobs


def output(token_id: int, finish_reason: FinishReason | None = None) -> GenerationOutput:
    return GenerationOutput(
        "r",
        (token_id,),
        chr(token_id),
        Usage(1, 0, token_id),
        logprobs=(TokenLogprobs(token_id, -float(token_id)),),
        finish_reason=finish_reason,
    )


async def test_outputs_that_wait_are_joined() -> None:
    stream = OutputStream()

    stream.put(output(97))
    stream.put(output(98))
    stream.put(output(99, FinishReason.STOP))

    joined = await stream.get()
    assert isinstance(joined, GenerationOutput)
    assert (joined.token_ids, joined.text) == ((97, 98, 99), "abc")
    assert [entry.logprob for entry in joined.logprobs] == [-97.0, -98.0, -99.0]
    assert joined.usage.num_output_tokens == 99
    assert joined.finish_reason is FinishReason.STOP
    assert stream.is_finished


async def test_outputs_of_one_request_are_joined_each_by_itself_and_all_must_end() -> None:
    stream = OutputStream(2)
    stream.put(replace(output(97), index=0))
    stream.put(replace(output(98), index=1))
    stream.put(replace(output(99, FinishReason.STOP), index=0))
    assert not stream.is_finished

    texts = [(joined.index, joined.text) for joined in [await generation_of(stream), await generation_of(stream)]]

    assert texts == [(0, "ac"), (1, "b")]
    stream.put(replace(output(100, FinishReason.LENGTH), index=1))
    assert stream.is_finished
    assert (await generation_of(stream)).text == "d"


async def generation_of(stream: OutputStream) -> GenerationOutput:
    joined = await stream.get()
    assert isinstance(joined, GenerationOutput)
    return joined


async def test_a_reader_waits_for_the_next_output() -> None:
    stream = OutputStream()
    reader = asyncio.create_task(stream.get())
    await asyncio.sleep(0)
    assert not reader.done()

    stream.put(output(97))

    assert (await reader).request_id == "r"
    assert not stream.is_finished


async def test_an_error_comes_after_what_is_pending() -> None:
    stream = OutputStream()
    stream.put(output(97))
    stream.fail(Unavailable("gone"))

    assert (await stream.get()).request_id == "r"
    with pytest.raises(Unavailable, match="gone"):
        await stream.get()
    assert stream.is_finished
