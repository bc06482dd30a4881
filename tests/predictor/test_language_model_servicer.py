"""LanguageModel at the predictor, through a real channel, in front of a model that echoes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import pytest

from mesh.channel import open_channel
from mesh.load_meter import LoadMeter
from mesh.request_hints import USUAL_OUTPUT_TOKENS
from mesh.testing import eventually, serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub, add_LanguageModelServicer_to_server
from predictor.language_model_servicer import LanguageModelServicer
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.loader import ModelSpec
from predictor.repository import ModelRepository
from tests.predictor.fake_language_model import DRAWN_SEED, MAX_CONTEXT_TOKENS, EchoLanguageModel
from tests.predictor.fake_runtime import FakeLoader, spec


@dataclass
class Served:
    stub: LanguageModelStub
    model: EchoLanguageModel
    load: LoadMeter

    async def generate(self, request: lm.GenerateRequest) -> list[lm.GenerateResponse]:
        return [response async for response in self.stub.Generate(request)]


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    loader = FakeLoader(echo=EchoLanguageModel)

    async def on_change(changed: ModelSpec, is_ready: bool) -> None:
        pass

    repository = ModelRepository([spec("echo", "echo"), spec("table")], loader, on_change)
    await repository.load_all()
    load = LoadMeter()
    servicer = LanguageModelServicer(repository, lambda: "host:1234", load)
    registration = (add_LanguageModelServicer_to_server, servicer)
    async with serve_on_free_port(registration, load=load) as address, open_channel(address) as channel:
        model = loader.runtimes["echo"]
        assert isinstance(model, EchoLanguageModel)
        yield Served(LanguageModelStub(channel), model, load)


def request(text: str = "abc", **sampling: object) -> lm.GenerateRequest:
    return lm.GenerateRequest(model_name="echo", text=text, sampling=lm.SamplingParameters(**sampling))  # type: ignore[arg-type]


async def until_closed(model: EchoLanguageModel) -> None:
    async with asyncio.timeout(5):
        while model.num_open:  # noqa: ASYNC110 -- the condition belongs to the object under test
            await asyncio.sleep(0.001)


async def test_a_stream_starts_with_start_and_ends_with_reason_usage_and_timings() -> None:
    async with serving() as served:
        responses = await served.generate(request(max_tokens=4))

    assert "".join(response.text for response in responses) == "abca"
    assert [list(response.token_ids) for response in responses] == [[97], [98], [99], [97]]
    assert responses[0].start == lm.GenerationStart(
        model_name="echo",
        model_version="1",
        model_digest="0" * 64,
        seed=DRAWN_SEED,
        prompt_tokens=3,
        replica="host:1234",
    )
    assert not any(response.HasField("start") for response in responses[1:])
    assert not any(response.finish_reason for response in responses[:-1])
    assert responses[-1].finish_reason == lm.FINISH_REASON_LENGTH
    assert responses[-1].usage == lm.Usage(prompt_tokens=3, cached_tokens=3, output_tokens=4)
    assert responses[-1].timings == lm.Timings(queue_s=0.1, first_token_s=0.2, total_s=0.3)


@pytest.mark.parametrize(("own", "expected"), [(0, 7), (-2, -2)])
async def test_the_priority_of_the_header_counts_where_the_request_has_none(own: int, expected: int) -> None:
    async with serving() as served:
        asked = request()
        asked.priority = own
        async for _ in served.stub.Generate(asked, metadata=(("x-priority", "7"),)):
            pass

    assert [seen.priority for seen in served.model.requests] == [expected]


async def test_every_sampling_parameter_reaches_the_engine() -> None:
    async with serving() as served:
        await served.generate(
            lm.GenerateRequest(
                model_name="echo",
                token_ids=lm.TokenIds(ids=[5, 6]),
                sampling=lm.SamplingParameters(
                    temperature=0.0,
                    top_k=7,
                    top_p=0.5,
                    min_p=0.25,
                    seed=2**64 - 1,
                    max_tokens=3,
                    stop=["END"],
                    stop_token_ids=[9],
                    ignore_eos=True,
                    logprobs=0,
                    repetition_penalty=1.5,
                    frequency_penalty=-1,
                    presence_penalty=0.5,
                    logit_bias={9: 1, 3: -2.5},
                    bad_words=["no"],
                    min_tokens=2,
                    sample_index=4,
                    prompt_logprobs=0,
                    guide=lm.Guide(choices=lm.Choices(texts=["a", "b"])),
                ),
                continue_from=[5],
                priority=-2,
                cache_salt="tenant",
            )
        )

    [seen] = served.model.requests
    assert seen.prompt_token_ids == (5, 6)
    assert (seen.sampling.temperature, seen.sampling.top_k, seen.sampling.top_p) == (0.0, 7, 0.5)
    assert (seen.sampling.min_p, seen.sampling.seed, seen.sampling.num_logprobs) == (0.25, 2**64 - 1, 0)
    assert (seen.max_tokens, seen.stop, seen.stop_token_ids, seen.ignore_eos) == (3, ("END",), (9,), True)
    assert (seen.continue_from, seen.priority, seen.cache_salt) == ((5,), -2, "tenant")
    assert (seen.sampling.repetition_penalty, seen.sampling.frequency_penalty) == (1.5, -1.0)
    assert (seen.sampling.presence_penalty, seen.sampling.logit_bias) == (0.5, ((3, -2.5), (9, 1.0)))
    assert (seen.bad_words, seen.min_tokens, seen.sample_index) == (((32, 110, 111), (110, 111)), 2, 4)
    assert (seen.n, seen.num_prompt_logprobs) == (1, 0)
    assert seen.guide == GuideSpec(GuideKind.CHOICES, choices=("a", "b"))


@pytest.mark.parametrize(
    ("guide", "spec"),
    [
        (lm.Guide(json_schema="{}"), GuideSpec(GuideKind.JSON_SCHEMA, "{}")),
        (lm.Guide(regex="a+"), GuideSpec(GuideKind.REGEX, "a+")),
        (lm.Guide(grammar='start: "a"'), GuideSpec(GuideKind.GRAMMAR, 'start: "a"')),
        (lm.Guide(json_object=True), GuideSpec(GuideKind.JSON_OBJECT)),
        (lm.Guide(json_object=False), None),
    ],
    ids=str,
)
async def test_every_kind_of_guide_reaches_the_engine(guide: lm.Guide, spec: GuideSpec | None) -> None:
    async with serving() as served:
        await served.generate(request(max_tokens=1, guide=guide))

    assert served.model.requests[0].guide == spec


async def test_a_guide_of_no_kind_is_refused() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError, match="guide is empty; it takes one of its kinds") as caught:
            await served.generate(request(guide=lm.Guide()))

    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_several_outputs_come_in_one_stream_each_with_its_index_and_its_end() -> None:
    async with serving() as served:
        responses = await served.generate(request(max_tokens=2, n=3))

    assert sum(response.HasField("start") for response in responses) == 1
    for index in range(3):
        mine = [response for response in responses if response.index == index]
        assert "".join(response.text for response in mine) == "ab"
        assert [response.finish_reason for response in mine] == [0, lm.FINISH_REASON_LENGTH]
        assert mine[-1].usage.output_tokens == 2


async def test_prompt_logprobs_and_echo_come_when_asked_for() -> None:
    asked = request(max_tokens=1, prompt_logprobs=0)
    asked.echo = True
    async with serving() as served:
        [response] = await served.generate(asked)
        [plain] = await served.generate(request(max_tokens=1))

    assert [entry.chosen.text for entry in response.prompt_logprobs] == ["b", "c"]
    assert [entry.chosen.logprob for entry in response.prompt_logprobs] == [-0.25, -0.25]
    assert (response.start.prompt_text, list(response.start.prompt_token_ids)) == ("abc", [97, 98, 99])
    assert (plain.start.prompt_text, list(plain.start.prompt_token_ids)) == ("", [])
    assert not plain.prompt_logprobs


async def test_what_is_not_set_has_the_default_of_the_proto() -> None:
    async with serving() as served:
        await served.generate(request())

    [seen] = served.model.requests
    assert (seen.sampling.temperature, seen.sampling.top_k, seen.sampling.top_p) == (1.0, 0, 1.0)
    assert (seen.sampling.min_p, seen.sampling.num_logprobs) == (0.0, -1)
    assert seen.sampling.seed == DRAWN_SEED
    assert seen.max_tokens == MAX_CONTEXT_TOKENS - 3


async def test_continuation_reports_only_what_is_new() -> None:
    async with serving() as served:
        responses = await served.generate(
            lm.GenerateRequest(
                model_name="echo", text="abc", sampling=lm.SamplingParameters(max_tokens=4), continue_from=[97, 98]
            )
        )

    assert "".join(response.text for response in responses) == "ca"
    assert responses[-1].usage.output_tokens == 2


async def test_what_is_gone_on_from_is_repeated_first_when_asked_for() -> None:
    sampling = lm.SamplingParameters(max_tokens=4, stop=["bcZ"], logprobs=0)
    async with serving() as served:
        repeated, *new = await served.generate(
            lm.GenerateRequest(
                model_name="echo", text="abc", sampling=sampling, continue_from=[97, 98], repeat_continued=True
            )
        )

    assert (repeated.text, list(repeated.token_ids)) == ("a", [97, 98])  # "b" may begin the stop text
    assert repeated.HasField("start")
    assert not repeated.logprobs
    assert [list(response.token_ids) for response in new] == [[99], [97]]
    assert not any(response.HasField("start") for response in new)
    assert new[-1].usage.output_tokens == 2


async def test_nothing_is_repeated_of_an_output_that_has_not_begun_or_is_refused() -> None:
    async with serving() as served:
        [first, _] = await served.generate(
            lm.GenerateRequest(
                model_name="echo", text="abc", sampling=lm.SamplingParameters(max_tokens=2), repeat_continued=True
            )
        )
        with pytest.raises(grpc.aio.AioRpcError, match="prompt has 70 tokens"):
            await served.generate(
                lm.GenerateRequest(model_name="echo", text="a" * 70, continue_from=[97], repeat_continued=True)
            )

    assert list(first.token_ids) == [97]


async def test_logprobs_name_tokens_with_text_and_bytes() -> None:
    async with serving() as served:
        [response] = await served.generate(request("é", max_tokens=1, logprobs=2))

    [position] = response.logprobs
    assert position.chosen == lm.TokenLogprob(token_id=0xC3, text="\ufffd", logprob=-0.5, token_bytes=b"\xc3")
    assert position.top[1] == lm.TokenLogprob(token_id=0, text="", logprob=-2.0, token_bytes=b"")


async def test_a_cancelled_call_ends_the_generation() -> None:
    async with serving() as served:
        served.model.gate = asyncio.Event()
        served.model.gate.set()
        call = served.stub.Generate(request())
        await call.read()
        served.model.gate.clear()

        call.cancel()

        await until_closed(served.model)


async def test_a_passed_deadline_ends_the_generation() -> None:
    async with serving() as served:
        served.model.gate = asyncio.Event()

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.stub.Generate(request(), timeout=0.05).read()

        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_closed(served.model)


@pytest.mark.parametrize(
    ("bad", "code", "sentence"),
    [
        (lm.GenerateRequest(model_name="other", text="a"), "NOT_FOUND", "model 'other' is not deployed"),
        (lm.GenerateRequest(model_name="echo", model_version="9", text="a"), "NOT_FOUND", "no version 9"),
        (lm.GenerateRequest(model_name="table", text="a"), "INVALID_ARGUMENT", "'table' is no language model"),
        (lm.GenerateRequest(model_name="echo"), "INVALID_ARGUMENT", "prompt is not set"),
        (
            lm.GenerateRequest(model_name="echo", messages=lm.ChatMessages()),
            "INVALID_ARGUMENT",
            "prompt has messages: the transformer renders them",
        ),
        (request("x" * 70), "INVALID_ARGUMENT", "prompt has 70 tokens; the model takes 64"),
    ],
)
async def test_a_bad_generation_is_refused_before_any_message(
    bad: lm.GenerateRequest, code: str, sentence: str
) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.generate(bad)

    assert refusal.value.code().name == code
    assert sentence in (refusal.value.details() or "")


async def test_scores_come_in_order_with_the_target_s_tokens() -> None:
    item = lm.ScoreRequest.Item
    async with serving() as served:
        response = await served.stub.Score(
            lm.ScoreRequest(
                model_name="echo",
                items=[
                    item(text="ab", target_text="cd"),
                    item(token_ids=lm.TokenIds(ids=[1]), target_token_ids=lm.TokenIds(ids=[7])),
                ],
                priority=-1,
                cache_salt="salt",
            )
        )

    assert [list(result.token_ids) for result in response.results] == [[99, 100], [7]]
    assert [list(result.logprobs) for result in response.results] == [[-99.0, -100.0], [-7.0]]
    assert response.usage == lm.Usage(prompt_tokens=6, cached_tokens=2)
    assert (response.model_name, response.model_version) == ("echo", "1")
    assert served.model.scored[0].prefix_token_ids == (97, 98)
    assert (served.model.scored[0].priority, served.model.scored[0].cache_salt) == (-1, "salt")


@pytest.mark.parametrize(
    ("items", "sentence"),
    [
        ([], "items has 0 entries; it takes 1 to 1024"),
        ([lm.ScoreRequest.Item(text="a", target_text="b")] * 1025, "items has 1025 entries"),
        ([lm.ScoreRequest.Item(text="a")], "items[0].target is not set"),
        ([lm.ScoreRequest.Item(target_text="a")], "items[0].prefix is not set"),
        ([lm.ScoreRequest.Item(messages=lm.ChatMessages(), target_text="a")], "items[0].prefix has messages"),
    ],
)
async def test_a_bad_score_request_names_the_item(items: list[lm.ScoreRequest.Item], sentence: str) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.stub.Score(lm.ScoreRequest(model_name="echo", items=items))

    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in (refusal.value.details() or "")


async def test_detokenize_gives_the_text_back() -> None:
    async with serving() as served:
        answer = await served.stub.Detokenize(lm.DetokenizeRequest(model_name="echo", token_ids=[104, 105]))
        nothing = await served.stub.Detokenize(lm.DetokenizeRequest(model_name="echo"))

    assert (answer.text, nothing.text) == ("hi", "")


async def test_tokenize_and_describe() -> None:
    async with serving() as served:
        tokens = await served.stub.Tokenize(lm.TokenizeRequest(model_name="echo", text="hi"))
        description = await served.stub.DescribeModel(lm.DescribeModelRequest(model_name="echo"))
        with pytest.raises(grpc.aio.AioRpcError, match="input has messages"):
            await served.stub.Tokenize(lm.TokenizeRequest(model_name="echo", messages=lm.ChatMessages()))

    assert list(tokens.token_ids) == [104, 105]
    assert description == lm.DescribeModelResponse(
        model_name="echo",
        model_version="1",
        model_digest="0" * 64,
        architecture="echo",
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=256,
        chat_template="{{ messages }}",
        eos_token="<end>",
        eos_token_ids=[0],
    )


async def test_a_call_counts_as_the_tokens_that_it_has_computed_while_it_runs() -> None:
    async with serving() as served:
        served.model.gate = asyncio.Event()
        calls = [
            asyncio.create_task(served.generate(request("x" * 8, max_tokens=5, n=2))),
            asyncio.create_task(served.generate(request("x" * 4))),
        ]
        await eventually(lambda: served.model.num_open == 2)

        assert served.load.report().work == (1 + 2 + 2 * 5) + (1 + 1 + USUAL_OUTPUT_TOKENS)
        served.model.gate.set()
        await asyncio.gather(*calls)
        await eventually(lambda: served.load.report().work == 0)
