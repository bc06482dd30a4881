"""OpenAI's API by the stock client, sync and async, against a real gateway on a real port."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from tests.gateway.conftest import Door

HI: list[Any] = [{"role": "user", "content": "hi"}]


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="chat", messages=HI)

    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "Hello wörld!")
    assert choice.finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (5, 3, 8)
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_streamed_chat(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="chat", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert deltas[0].role == "assistant"
    assert [delta.content for delta in deltas if delta.content] == ["Hello", " wörld", "!"]
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


async def test_stream_without_options_has_no_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=HI, stream=True)
    chunks = [chunk async for chunk in stream]

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


async def test_sync_client_streamed_and_not(door: Door) -> None:
    def ask() -> tuple[str | None, str]:
        with openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0, timeout=10) as client:
            whole = client.chat.completions.create(model="chat", messages=HI)
            stream = client.completions.create(model="chat", prompt="hi", stream=True)
            return whole.choices[0].message.content, "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(ask) == ("Hello wörld!", "Hello wörld!")


async def test_completions_of_several_prompts(client: openai.AsyncOpenAI, door: Door) -> None:
    answer = await client.completions.create(model="chat", prompt=["a", "b"], n=2, seed=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in answer.choices] == ["Hello wörld!", "Hello1 wörld!"] * 2
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (10, 12)
    assert sorted((request.text, request.sampling.n, request.sampling.seed) for request in door.model.requests) == [
        ("a", 2, 3),
        ("b", 2, 3),
    ]


async def test_prompt_of_token_ids(client: openai.AsyncOpenAI, door: Door) -> None:
    await client.completions.create(model="chat", prompt=[1, 2, 3])

    assert list(door.model.requests[0].token_ids.ids) == [1, 2, 3]


async def test_streamed_choices_are_told_apart(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(model="chat", messages=HI, n=3, stream=True)
    texts = {0: "", 1: "", 2: ""}
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""

    assert texts == {0: "Hello wörld!", 1: "Hello1 wörld!", 2: "Hello2 wörld!"}


async def test_chat_with_three_choices_is_one_generation(client: openai.AsyncOpenAI, door: Door) -> None:
    answer = await client.chat.completions.create(model="chat", messages=HI, n=3, seed=-1)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["Hello wörld!", "Hello1 wörld!", "Hello2 wörld!"]
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (5, 9)
    (request,) = door.model.requests
    assert (request.sampling.n, request.sampling.seed) == (3, 2**64 - 1)
    (record,) = await door.records()
    assert record["output"]["text"] == "Hello wörld!"
    assert [(one["index"], one["text"]) for one in record["other_outputs"]] == [
        (1, "Hello1 wörld!"),
        (2, "Hello2 wörld!"),
    ]


async def test_answer_without_all_its_outputs_is_an_error(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError, match="before output 1 was complete"):
        await client.completions.create(model="chat", prompt="half an answer", n=2)
    stream = await client.completions.create(model="chat", prompt="half an answer", n=2, stream=True)
    with pytest.raises(openai.APIError, match="before output 1 was complete"):
        async for _ in stream:
            pass


async def test_logprobs_of_chat_and_text(client: openai.AsyncOpenAI) -> None:
    chat = await client.chat.completions.create(model="chat", messages=HI, logprobs=True, top_logprobs=2)
    text = await client.completions.create(model="chat", prompt="hi", logprobs=1)

    assert chat.choices[0].logprobs is not None
    assert chat.choices[0].logprobs.content is not None
    first = chat.choices[0].logprobs.content[0]
    assert (first.token, first.logprob, bytes(first.bytes or [])) == ("Hello", -0.5, b"Hello")
    assert len(first.top_logprobs) == 2
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.tokens == ["Hello", " wörld", "!"]
    assert text.choices[0].logprobs.text_offset == [0, 5, 11]


async def test_echo_has_the_prompt_before_the_text_and_in_the_lists(client: openai.AsyncOpenAI, door: Door) -> None:
    whole = await client.completions.create(model="chat", prompt="Once upon a", echo=True, logprobs=1, n=2)
    stream = await client.completions.create(
        model="chat", prompt="Once upon a", echo=True, logprobs=1, n=2, stream=True
    )

    texts, tokens, offsets = ["", ""], [[], []], [[], []]  # type: tuple[list[str], list[list[str]], list[list[int]]]
    async for chunk in stream:
        (part,) = chunk.choices
        texts[part.index] += part.text
        if part.logprobs is not None:
            tokens[part.index] += part.logprobs.tokens or []
            offsets[part.index] += part.logprobs.text_offset or []
    assert [choice.text for choice in whole.choices] == texts
    assert texts == ["Once upon aHello wörld!", "Once upon aHello1 wörld!"]
    for choice in whole.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == tokens[choice.index]
        assert choice.logprobs.text_offset == offsets[choice.index]
        assert choice.logprobs.token_logprobs == [None, -0.5, -0.5, -0.5, -0.5, -0.5, -0.5]
    assert tokens[0] == ["Once", " upon", " a", "Hello", " wörld", "!", ""]
    assert offsets[1] == [0, 4, 9, 11, 17, 23, 24]
    assert [request.sampling.prompt_logprobs for request in door.model.requests] == [1, 1]


async def test_scoring_a_prompt_generates_nothing(client: openai.AsyncOpenAI, door: Door) -> None:
    answer = await client.completions.create(model="chat", prompt="Once upon a", echo=True, logprobs=0, max_tokens=0)

    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason) == ("Once upon a", "length")
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["Once", " upon", " a"]
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5]
    assert door.model.requests[0].sampling.max_tokens == 0


async def test_prompt_logprobs_are_vllms_lists(client: openai.AsyncOpenAI) -> None:
    extra = {"prompt_logprobs": 2}
    text = await client.completions.create(model="chat", prompt="Once upon", n=2, extra_body=extra)
    chat = await client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "Once upon"}], extra_body=extra
    )

    likeliest = {"logprob": -0.25, "rank": 1, "decoded_token": "?"}
    expected = [None, {"51": {"logprob": -0.5, "rank": 2, "decoded_token": " upon"}, "9": likeliest}]
    assert [choice.to_dict()["prompt_logprobs"] for choice in text.choices] == [expected, expected]
    assert chat.to_dict()["prompt_logprobs"] == expected
    assert list(expected[1] or ()) == ["51", "9"]


async def test_text_that_stopped_an_output_is_its_stop_reason(client: openai.AsyncOpenAI) -> None:
    stopped = await client.chat.completions.create(model="chat", messages=HI, stop="\n\n")
    ended = await client.completions.create(model="chat", prompt="hi")
    stream = await client.completions.create(model="chat", prompt="hi", stop=["END"], stream=True)
    last = [chunk async for chunk in stream][-1]

    assert stopped.choices[0].to_dict()["stop_reason"] == "\n\n"
    assert ended.choices[0].to_dict()["stop_reason"] is None
    assert last.choices[0].to_dict()["stop_reason"] == "END"


async def test_logit_bias_and_penalties_reach_the_model(client: openai.AsyncOpenAI, door: Door) -> None:
    await client.chat.completions.create(
        model="chat", messages=HI, logit_bias={"7": -100, "11": 5}, frequency_penalty=0.5, presence_penalty=-1,
        extra_body={"repetition_penalty": 1.25, "bad_words": ["no"], "min_tokens": 2},
    )  # fmt: skip

    sampling = door.model.requests[0].sampling
    assert dict(sampling.logit_bias) == {7: -100, 11: 5}
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty) == (0.5, -1, 1.25)
    assert (list(sampling.bad_words), sampling.min_tokens) == (["no"], 2)
    (record,) = await door.records()
    assert record["sampling"]["logit_bias"] == {"7": -100, "11": 5}


async def test_models(client: openai.AsyncOpenAI, door: Door) -> None:
    assert [model.id async for model in client.models.list()] == ["absent", "chat", "echo", "loose", "pair"]
    assert (await client.models.retrieve("chat")).owned_by == "meshserve"
    by_name = (await door.http.get("/v1/models?format=v1")).json()
    assert by_name == {"models": ["absent", "chat", "echo", "loose", "pair"]}
    ready = (await door.http.get("/v1/models/echo")).json()
    assert (ready["name"], ready["ready"], ready["object"]) == ("echo", True, "model")
    assert (await door.http.get("/v1/models/absent")).json()["ready"] is False


async def test_unknown_model_is_openais_not_found(client: openai.AsyncOpenAI) -> None:
    for call in (
        client.chat.completions.create(model="nobody", messages=HI),
        client.completions.create(model="nobody", prompt="x", stream=True),
        client.models.retrieve("nobody"),
    ):
        with pytest.raises(openai.NotFoundError) as raised:
            await call
        assert raised.value.code == "model_not_found"


async def test_prompt_too_long_is_openais_code(client: openai.AsyncOpenAI) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as raised:
            await client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "too long"}], stream=stream
            )
        assert raised.value.code == "context_length_exceeded"
        assert raised.value.type == "invalid_request_error"
        assert raised.value.param == "messages"
        assert "5120 tokens" in raised.value.message


async def test_busy_model_is_a_rate_limit_with_a_delay(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        await client.completions.create(model="chat", prompt="busy")

    assert raised.value.response.headers["retry-after"] == "3"


async def test_model_that_generates_no_text_is_a_bad_request(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="'echo' does not generate text") as raised:
        await client.chat.completions.create(model="echo", messages=HI)
    assert raised.value.param == "model"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"logit_bias": {"7": 101}}, "logit_bias"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"bad_words": ["x"] * 65}, "bad_words"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 129}, "n"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"use_beam_search": True}, "use_beam_search"),
    ],
)
async def test_refused_value_is_openais_error_with_its_param(
    client: openai.AsyncOpenAI, door: Door, body: dict[str, Any], param: str
) -> None:
    for call in (
        client.chat.completions.create(model="chat", messages=HI, extra_body=body),
        client.completions.create(model="chat", prompt="hi", extra_body=body),
    ):
        with pytest.raises(openai.BadRequestError) as raised:
            await call
        assert (raised.value.param, raised.value.type) == (param, "invalid_request_error")
    assert door.model.requests == []


async def test_known_model_that_nobody_serves_is_unavailable(door: Door) -> None:
    answer = await door.http.post("/v1/models/absent:predict", json={"instances": [1]})

    assert answer.status_code == 503
    assert "absent" in answer.json()["error"]


async def test_failure_in_the_middle_is_an_event_and_then_the_end(door: Door) -> None:
    body = {"model": "chat", "prompt": "fails midway", "stream": True}
    async with door.http.stream("POST", "/v1/completions", json=body) as answer:
        status = answer.status_code
        lines = [line async for line in answer.aiter_lines() if line]

    assert status == 200
    assert '"text":"Hello"' in lines[0]
    error = '{"message":"the replica went away","type":"service_unavailable_error","param":null,"code":null}'
    assert lines[1:] == [f'data: {{"error":{error}}}']
    (record,) = await door.records()
    assert (record["status"], record["output"]["text"]) == ("UNAVAILABLE", "Hello")


async def test_stock_client_sees_the_failure_in_the_middle(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="chat", prompt="fails midway", stream=True)

    with pytest.raises(openai.APIError, match="the replica went away"):
        async for _ in stream:
            pass


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_client_that_leaves_a_stream_cancels_the_call_at_once(door: Door, num_choices: int) -> None:
    body = {"model": "chat", "prompt": "waits", "stream": True, "n": num_choices}
    async with door.http.stream("POST", "/v1/completions", json=body) as answer:
        events = (line async for line in answer.aiter_lines() if line)
        for _ in range(num_choices):
            await anext(events)

    async with asyncio.timeout(5):
        await door.model.cancelled.wait()
    (record,) = await door.records()
    assert record["status"] == "CANCELLED"
    assert record["output"]["text"] == "Hello"
    assert len(record.get("other_outputs", [])) == num_choices - 1


async def test_client_that_leaves_before_the_answer_cancels_the_call(door: Door) -> None:
    request = asyncio.create_task(door.http.post("/v1/completions", json={"model": "chat", "prompt": "waits"}))
    async with asyncio.timeout(5):
        await door.model.started.wait()

        request.cancel()

        await door.model.cancelled.wait()
    (record,) = await door.records()
    assert record["status"] == "CANCELLED"


async def test_other_choices_end_when_one_fails(door: Door) -> None:
    answer = await door.http.post(
        "/v1/completions", json={"model": "chat", "prompt": ["fails midway, once another started", "waits"]}
    )

    assert answer.status_code == 503
    async with asyncio.timeout(5):
        await door.model.cancelled.wait()
