"""What can be asked of an output of the real SmolLM2 behind a real predictor: guides, forks, bans, prompts' scores."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from predictor.llm.sequence import output_seed
from tests.predictor.generating import PROMPT, generate, generation, metric, text_of, tokens_of
from tests.predictor.running import RunningPredictor, eventually, running_predictor

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PERSON = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    }
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def predictor(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RunningPredictor]:
    async with running_predictor(tmp_path_factory.mktemp("predictor"), "--model", f"smollm2={smollm2_gguf}") as running:
        await running.until_ready("smollm2", 240)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def channel(predictor: RunningPredictor) -> AsyncIterator[grpc.aio.Channel]:
    async with predictor.channel() as channel:
        yield channel


async def refusal(channel: grpc.aio.Channel, request: lm.GenerateRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await generate(channel, request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details() or ""


@pytest.mark.parametrize("temperature", [0, 1])
async def test_an_output_fits_its_schema(channel: grpc.aio.Channel, temperature: float) -> None:
    asked = generation(
        "A person:", temperature=temperature, seed=5, max_tokens=200, guide=lm.Guide(json_schema=PERSON), logprobs=2
    )

    responses = await generate(channel, asked)

    person = json.loads(text_of(responses))
    assert person.keys() == {"name", "age"}
    assert isinstance(person["name"], str) and 0 <= person["age"] <= 120
    assert responses[-1].finish_reason == lm.FINISH_REASON_STOP
    assert sum(len(response.logprobs) for response in responses) == len(tokens_of(responses))


@pytest.mark.parametrize(
    ("guide", "pattern"),
    [
        (lm.Guide(regex="[0-9]{3}-[a-f]{2}"), "[0-9]{3}-[a-f]{2}"),
        (lm.Guide(choices=lm.Choices(texts=["yes, it is", "no"])), "yes, it is|no"),
        (lm.Guide(grammar='start: "(" word ("," word)* ")"\nword: /[a-z]{1,3}/'), r"\([a-z]{1,3}(,[a-z]{1,3})*\)"),
    ],
    ids=["regex", "choices", "grammar"],
)
async def test_an_output_keeps_to_its_guide(channel: grpc.aio.Channel, guide: lm.Guide, pattern: str) -> None:
    responses = await generate(channel, generation(temperature=1, seed=3, max_tokens=60, guide=guide))

    text, finished = text_of(responses), responses[-1].finish_reason == lm.FINISH_REASON_STOP
    assert re.fullmatch(pattern, text) or (not finished and text.startswith("("))


async def test_a_guided_output_goes_on_elsewhere_as_it_would_have(channel: grpc.aio.Channel) -> None:
    sampling = {"temperature": 1, "seed": 9, "max_tokens": 100, "guide": lm.Guide(json_schema=PERSON)}
    tokens = tokens_of(await generate(channel, generation("A person:", **sampling)))
    asked = generation("A person:", **sampling)
    asked.continue_from.extend(tokens[:7])

    assert tokens_of(await generate(channel, asked)) == tokens[7:]


async def test_a_stop_string_ends_a_guided_output(channel: grpc.aio.Channel) -> None:
    asked = generation("A person:", max_tokens=100, stop=['"age'], guide=lm.Guide(json_schema=PERSON))

    responses = await generate(channel, asked)

    assert text_of(responses).rstrip().endswith(",")
    assert responses[-1].matched_stop == '"age'


@pytest.mark.parametrize(
    ("guide", "sentence"),
    [
        (lm.Guide(json_schema="{"), "json_schema is no JSON"),
        (lm.Guide(json_schema='{"type": "strin"}'), "json_schema"),
        (lm.Guide(json_schema='{"type": "integer", "minimum": 5, "maximum": 4}'), "json_schema"),
        (lm.Guide(json_schema='{"$ref": "#"}'), "json_schema"),
        (lm.Guide(regex="(a"), "regex"),
        (lm.Guide(grammar="start: nothing"), "grammar"),
        (lm.Guide(choices=lm.Choices()), "choices is empty"),
    ],
)
async def test_a_malformed_guide_is_refused_and_what_runs_goes_on(
    channel: grpc.aio.Channel, guide: lm.Guide, sentence: str
) -> None:
    running = LanguageModelStub(channel).Generate(generation(max_tokens=20, ignore_eos=True))
    await running.read()

    assert sentence in await refusal(channel, generation(guide=guide))

    num_tokens = 1
    async for response in running:
        num_tokens += len(response.token_ids)
    assert num_tokens >= 20


async def test_outputs_of_one_request_share_its_prompt_and_differ(channel: grpc.aio.Channel) -> None:
    prompt = "Once upon a time there was a fox who lived in a large forest and liked to talk to all the birds of it."
    together = await generate(channel, generation(prompt, temperature=1, seed=7, n=3))

    outputs = [tokens_of(together, index) for index in range(3)]
    assert len({tuple(output) for output in outputs}) == 3
    assert [response.usage.cached_tokens > 0 for response in together if response.index and response.finish_reason] == [
        True,
        True,
    ]
    alone = await generate(channel, generation(prompt, temperature=1, seed=7, sample_index=2))
    by_seed = await generate(channel, generation(prompt, temperature=1, seed=output_seed(7, 2)))
    assert tokens_of(alone, 2) == outputs[2] == tokens_of(by_seed)


async def test_a_client_that_leaves_ends_all_outputs_of_its_request(
    predictor: RunningPredictor, channel: grpc.aio.Channel
) -> None:
    call = LanguageModelStub(channel).Generate(generation(max_tokens=2000, ignore_eos=True, n=128))
    await call.read()
    second = LanguageModelStub(channel).Generate(generation(max_tokens=2000, ignore_eos=True, n=8))

    async def eight_wait() -> bool:
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return [await metric(predictor, name) for name in names] == [128, 8]

    await eventually(eight_wait, 20, "the second request waits")

    call.cancel()
    second.cancel()

    async def is_idle() -> bool:
        names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
        return [await metric(predictor, name) for name in names] == [0, 0, 0]

    await eventually(is_idle, 20, "all outputs have left the engine")


async def test_bias_and_bans_move_the_choice(channel: grpc.aio.Channel) -> None:
    plain = await generate(channel, generation(max_tokens=1))
    paris = tokens_of(plain)[0]

    biased = await generate(channel, generation(max_tokens=1, logit_bias={paris: -100}))
    banned = await generate(channel, generation(max_tokens=6, bad_words=["Paris"]))

    assert text_of(plain) == " Paris"
    assert tokens_of(biased) != [paris]
    assert "Paris" not in text_of(banned)
    assert "logit_bias has token id 49152" in await refusal(channel, generation(logit_bias={49152: 1}))


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 2}, {"frequency_penalty": 2}, {"presence_penalty": 2, "frequency_penalty": 1}]
)
async def test_a_penalty_ends_a_loop(channel: grpc.aio.Channel, penalty: dict[str, float]) -> None:
    loop = "1 2 1 2 1 2 1 2 1 2 1 2 1 2"

    plain = tokens_of(await generate(channel, generation(loop, max_tokens=12, ignore_eos=True)))
    penalized = tokens_of(await generate(channel, generation(loop, max_tokens=12, ignore_eos=True, **penalty)))

    assert len(set(plain)) < 6
    assert len(set(penalized)) > len(set(plain))


async def test_the_shortest_length_is_kept(channel: grpc.aio.Channel) -> None:
    prompt = "<|im_start|>user\nName the capital of France.<|im_end|>\n<|im_start|>assistant\n"
    plain = tokens_of(await generate(channel, generation(prompt, max_tokens=60)))
    assert len(plain) < 60, "the answer ends by itself"

    longer = tokens_of(await generate(channel, generation(prompt, max_tokens=60, min_tokens=len(plain) + 5)))

    assert len(longer) >= len(plain) + 5
    assert longer[: len(plain) - 1] == plain[:-1]


async def test_prompt_logprobs_are_those_that_score_gives(channel: grpc.aio.Channel) -> None:
    asked = generation(max_tokens=0, prompt_logprobs=2)
    asked.echo = True

    responses = await generate(channel, asked)

    entries = [entry for response in responses for entry in response.prompt_logprobs]
    prompt = list(responses[0].start.prompt_token_ids)
    assert responses[0].start.prompt_text == PROMPT
    assert [entry.chosen.token_id for entry in entries] == prompt[1:]
    assert all(len(entry.top) == 2 for entry in entries)
    items = [lm.ScoreRequest.Item(token_ids=lm.TokenIds(ids=prompt[:1]), target_token_ids=lm.TokenIds(ids=prompt[1:]))]
    scores = await LanguageModelStub(channel).Score(lm.ScoreRequest(model_name="smollm2", items=items))
    assert [entry.chosen.logprob for entry in entries] == list(scores.results[0].logprobs)
    assert tokens_of(responses) == []
    assert responses[-1].finish_reason == lm.FINISH_REASON_LENGTH
