"""However a generation is cut and by whomever it is gone on with, its reader gets what one replica would have said."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

import grpc
import grpc.aio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.generation_stream import GenerationStream
from mesh.resumable_stream import BrokenAnswer, CannotContinue
from mesh.v1 import language_model_pb2 as lm
from tests.mesh.generation_rig import SEED, Script, ScriptedModel, delivered, whole

words = st.tuples(st.integers(0, 900), st.sampled_from(["", "a", "bc", "é"]))
scripts = st.lists(st.lists(words, min_size=1, max_size=8).map(tuple), min_size=1, max_size=3).map(
    lambda outputs: Script(tuple(outputs))
)
COUNT = Script((tuple((i, f"{i} ") for i in range(6)),))


def asked(script: Script, **sampling: object) -> lm.GenerateRequest:
    parameters = lm.SamplingParameters(n=len(script.outputs), **sampling)  # type: ignore[arg-type]
    return lm.GenerateRequest(model_name="m", text="prompt", sampling=parameters)


@settings(deadline=None, max_examples=150)
@given(
    script=scripts,
    seed=st.integers(0, 2**32),
    cuts=st.lists(st.integers(0, 9), max_size=5),
    wants_logprobs=st.booleans(),
    is_greedy=st.booleans(),
    echo=st.booleans(),
)
async def test_a_cut_stream_is_the_uncut_one(
    script: Script, seed: int, cuts: list[int], wants_logprobs: bool, is_greedy: bool, echo: bool
) -> None:
    rng = random.Random(seed)
    request = asked(script, temperature=0 if is_greedy else 1)
    request.echo = echo
    if wants_logprobs:
        request.sampling.logprobs = request.sampling.prompt_logprobs = 0
    models = [ScriptedModel(script, rng, name) for name in ("a:1", "b:2")]

    messages = await delivered(request, models, cuts)

    seed_in_use = messages[0].start.seed
    request.sampling.seed = seed_in_use
    uncut = ScriptedModel(script, rng).answers(request)
    assert [message.HasField("start") for message in messages] == [True, *[False] * (len(messages) - 1)]
    assert messages[0].start.prompt_text == ("prompt" if echo else "")
    for index in range(len(script.outputs)):
        got, expected = whole(messages, index), whole(uncut, index)
        # What a replica has in its cache is its own affair; more than the prompt it never is.
        assert got.usage.cached_tokens <= got.usage.prompt_tokens
        got.usage.cached_tokens = expected.usage.cached_tokens
        assert got == expected
    for message in messages:
        times = message.timings
        assert 0 <= times.queue_s <= times.first_token_s <= times.total_s


async def test_outputs_that_have_ended_are_not_asked_for_again() -> None:
    script = Script((((1, "a"),), tuple((i, "b") for i in range(9))))
    first, second = ScriptedModel(script, random.Random(4), "a:1"), ScriptedModel(script, random.Random(4), "b:2")

    messages = await delivered(asked(script, temperature=0), [first, second], [3])

    [request] = second.requests
    assert (request.sampling.n, request.sampling.sample_index) == (1, 1)
    assert request.continue_from
    assert whole(messages, 0).text == "a"
    assert whole(messages, 1).text == "b" * 9


async def test_a_whole_answer_whose_status_is_lost_is_whole() -> None:
    model = ScriptedModel(COUNT, random.Random(4))
    request = asked(COUNT, temperature=0)

    async def answers(content: bytes) -> AsyncGenerator[bytes, None]:
        async for message in model.stream(content):
            yield message
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())

    messages = [message async for message, _ in GenerationStream(request.SerializeToString()).go_on(answers)]

    assert messages[-1].finish_reason == lm.FINISH_REASON_STOP


async def test_a_move_is_told_once_for_each_output() -> None:
    script = Script((tuple((i, "a") for i in range(9)), tuple((i, "b") for i in range(9))))
    models = [ScriptedModel(script, random.Random(9), name) for name in ("a:1", "b:2")]

    messages = await delivered(asked(script, temperature=0), models, [2])

    assert [message.moved_to for message in messages[:2]] == ["", ""]
    assert sorted((message.index, message.moved_to) for message in messages if message.moved_to) == [
        (0, "b:2"),
        (1, "b:2"),
    ]


async def test_a_client_s_own_continue_from_is_gone_on_with() -> None:
    request = asked(COUNT, temperature=0)
    request.continue_from.extend([0, 1])
    models = [ScriptedModel(COUNT, random.Random(1), name) for name in ("a:1", "b:2")]

    messages = await delivered(request, models, [1])

    assert list(whole(messages, 0).token_ids) == [2, 3, 4, 5]
    assert whole(messages, 0).usage.output_tokens == 4


async def test_what_was_repeated_is_not_repeated_again_and_is_no_output() -> None:
    request = asked(COUNT, temperature=0)
    request.continue_from.extend([0, 1])
    request.repeat_continued = True
    seen: list[lm.GenerateRequest] = []

    async def answers(content: bytes) -> AsyncGenerator[bytes, None]:
        seen.append(lm.GenerateRequest.FromString(content))
        start = lm.GenerationStart(seed=SEED, prompt_tokens=5)
        if len(seen) == 1:
            yield lm.GenerateResponse(start=start, text="0 1 ", token_ids=[0, 1]).SerializeToString()
            yield lm.GenerateResponse(text="2 ", token_ids=[2]).SerializeToString()
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata())
        last = lm.GenerateResponse(start=start, text="3", token_ids=[3], finish_reason=lm.FINISH_REASON_STOP)
        last.usage.output_tokens = 1
        yield last.SerializeToString()

    stream = GenerationStream(request.SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError):
        [message async for message in stream.go_on(answers)]
    [(last, _)] = [message async for message in stream.go_on(answers)]

    assert list(seen[1].continue_from) == [0, 1, 2]
    assert not seen[1].repeat_continued
    assert last.usage.output_tokens == 2


@pytest.mark.parametrize("has_tools", [False, True])
async def test_a_rendered_prompt_goes_on_as_text_unless_calls_must_be_read(has_tools: bool) -> None:
    request = asked(COUNT, temperature=0)
    request.messages.messages.add(role="user", content="Count.")
    request.messages.tools_json = "[]" if has_tools else ""
    seen: list[lm.GenerateRequest] = []

    async def answers(content: bytes) -> AsyncGenerator[bytes, None]:
        seen.append(lm.GenerateRequest.FromString(content))
        start = lm.GenerationStart(seed=SEED, rendered_prompt="<user>Count." if has_tools or len(seen) == 1 else "")
        yield lm.GenerateResponse(start=start, token_ids=[len(seen)]).SerializeToString()

    stream = GenerationStream(request.SerializeToString())
    for _ in range(2):
        with pytest.raises(BrokenAnswer, match="before output 0 was complete"):
            [message async for message in stream.go_on(answers)]

    assert seen[1].WhichOneof("prompt") == ("messages" if has_tools else "text")
    assert has_tools or seen[1].text == "<user>Count."


async def test_another_model_or_another_prompt_is_not_gone_on_with() -> None:
    other_model = ScriptedModel(COUNT, random.Random(1), "b:2", digest="e" * 64)
    other_prompt = ScriptedModel(Script(COUNT.outputs, num_prompt_tokens=6), random.Random(1), "c:3")
    stream = GenerationStream(asked(COUNT, temperature=0).SerializeToString())
    with pytest.raises(grpc.aio.AioRpcError):
        [m async for m in stream.go_on(lambda content: ScriptedModel(COUNT, random.Random(1)).stream(content, 1))]

    with pytest.raises(CannotContinue, match="replica b:2 has another model"):
        [message async for message in stream.go_on(other_model.stream)]
    with pytest.raises(CannotContinue, match="replica c:3 reads another prompt"):
        [message async for message in stream.go_on(other_prompt.stream)]
    messages = [message async for message, _ in stream.go_on(ScriptedModel(COUNT, random.Random(1), "d:4").stream)]

    assert messages[0].moved_to == "d:4"
    assert messages[-1].finish_reason == lm.FINISH_REASON_STOP


@pytest.mark.parametrize(
    ("answers", "sentence"),
    [
        ([], "ended its answer before the first message"),
        ([b"\xff\xff"], "no GenerateResponse"),
        ([lm.GenerateResponse(text="a", token_ids=[1]).SerializeToString()], "no start"),
        (
            [lm.GenerateResponse(start=lm.GenerationStart(), token_ids=[1], index=7).SerializeToString()],
            "output 7, which nobody asked for",
        ),
        (
            [lm.GenerateResponse(start=lm.GenerationStart(), token_ids=[1]).SerializeToString()],
            "before output 0 was complete",
        ),
    ],
)
async def test_answers_that_cannot_be_are_broken(answers: list[bytes], sentence: str) -> None:
    async def garbage(content: bytes) -> AsyncGenerator[bytes, None]:
        for answer in answers:
            yield answer

    stream = GenerationStream(asked(COUNT).SerializeToString())

    with pytest.raises(BrokenAnswer, match=sentence):
        [message async for message in stream.go_on(garbage)]
