"""Tools through the real servers: told in the prompt, held to by a guide, read from the answer."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.errors import InvalidInput
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.language_model_pb2_grpc import LanguageModelStub

TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {"name": "get_weather", "parameters": {"properties": {"city": {"type": "string"}}}},
        },
        {"type": "function", "function": {"name": "clock"}},
    ]
)


def chat(tool_choice: str = "", tools_json: str = TOOLS) -> lm.ChatMessages:
    question = lm.ChatMessage(role="user", content="Weather?")
    return lm.ChatMessages(messages=[question], tools_json=tools_json, tool_choice=tool_choice)


async def ask(rig: Any, request: lm.GenerateRequest) -> list[lm.GenerateResponse]:
    return [response async for response in LanguageModelStub(rig.channel).Generate(request)]


def says(rig: Any, *texts: str) -> None:
    rig.predictor.answers = [lm.GenerateResponse(text=text, token_ids=[i]) for i, text in enumerate(texts)]
    rig.predictor.answers.append(lm.GenerateResponse(finish_reason=lm.FINISH_REASON_STOP))


async def test_tools_are_told_and_calls_are_read(rig: Any, templates: dict[str, str]) -> None:
    rig.predictor.description.chat_template = templates["hermes"]
    says(rig, "Let me", " see.\n<tool_", 'call>\n{"name": "clock", "arguments": {', "}}\n</tool_call>")

    responses = await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat()))

    [seen] = rig.predictor.requests
    assert '"name": "get_weather"' in seen.text
    assert responses[0].start.rendered_prompt == seen.text
    assert "lead[lazy]" in seen.sampling.guide.grammar
    assert "".join(response.text for response in responses) == "Let me see."
    deltas = [call for response in responses for call in response.tool_calls]
    assert [(call.index, call.name, call.arguments) for call in deltas] == [(0, "clock", "{"), (0, "", "}")]
    assert [bool(call.id) for call in deltas] == [True, False]
    assert [token for response in responses for token in response.token_ids] == [0, 1, 2, 3]
    assert responses[-1].finish_reason == lm.FINISH_REASON_TOOL_CALLS


async def test_an_answer_with_calls_is_gone_on_with(rig: Any, templates: dict[str, str]) -> None:
    rig.predictor.description.chat_template = templates["hermes"]
    rig.predictor.answers = [
        lm.GenerateResponse(text='See.\n<tool_call>\n{"name": "clock", "arg', token_ids=[1, 2]),
        lm.GenerateResponse(text='uments": {}}\n</tool_call>', token_ids=[3], finish_reason=lm.FINISH_REASON_STOP),
    ]

    *_, repeated, last = await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat(), continue_from=[1, 2]))

    [seen] = rig.predictor.requests
    assert seen.repeat_continued
    assert list(seen.continue_from) == [1, 2]
    assert not (repeated.text or repeated.token_ids or repeated.tool_calls)
    assert [(call.name, call.arguments) for call in last.tool_calls] == [("clock", "{}")]
    assert list(last.token_ids) == [3]
    assert last.finish_reason == lm.FINISH_REASON_TOOL_CALLS


async def test_the_format_is_that_of_the_template(rig: Any, templates: dict[str, str]) -> None:
    rig.predictor.description.chat_template = templates["parameters"]
    says(rig, '{"name": "clock", "parameters": {}}')

    responses = await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat("required")))

    assert "parameters" in rig.predictor.requests[0].sampling.guide.grammar
    assert [(call.name, call.arguments) for response in responses for call in response.tool_calls] == [("clock", "{}")]


async def test_a_model_whose_template_knows_no_tools_calls_them_all_the_same(rig: Any) -> None:
    says(rig, '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>')

    responses = await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat()))

    assert "<tools>\n" in rig.predictor.requests[0].text
    assert [call.name for response in responses for call in response.tool_calls] == ["clock"]


async def test_a_named_function_is_the_only_one_that_can_be_called(rig: Any) -> None:
    await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat("function:clock")))

    [seen] = rig.predictor.requests
    assert "clock" in seen.sampling.guide.grammar
    assert "get_weather" not in seen.sampling.guide.grammar
    assert "get_weather" in seen.text


async def test_the_choice_none_leaves_tools_out_and_the_callers_guide_in(rig: Any) -> None:
    sampling = lm.SamplingParameters(guide=lm.Guide(regex="a|b"))
    says(rig, '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>')

    responses = await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat("none"), sampling=sampling))

    [seen] = rig.predictor.requests
    assert "clock" not in seen.text
    assert seen.sampling == sampling
    assert "<tool_call>" in "".join(response.text for response in responses)
    assert responses[-1].finish_reason == lm.FINISH_REASON_STOP


async def test_tokenize_score_and_explain_see_the_prompt_with_tools(rig: Any) -> None:
    await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat()))
    prompt = rig.predictor.requests[0].text
    stub = LanguageModelStub(rig.channel)

    await stub.Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat()))
    await stub.Score(lm.ScoreRequest(model_name="llm", items=[lm.ScoreRequest.Item(messages=chat(), target_text="x")]))
    subject = explain_pb2.TextSubject(messages=chat(), target="x")
    await ExplainServiceStub(rig.channel).Explain(explain_pb2.ExplainRequest(model_name="llm", text=subject))

    assert rig.predictor.requests[1].text == prompt
    assert rig.predictor.requests[2].items[0].text == prompt
    segments = rig.explainer.requests[0].text.rendered.segments
    assert "".join(segment.text for segment in segments) == prompt
    assert [segment.text for segment in segments if segment.explainable] == ["Weather?"]


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        ({"messages": chat(tools_json="{")}, "messages.tools_json is not JSON"),
        ({"messages": chat(tools_json="[" * 100_000)}, "messages.tools_json is not JSON"),
        ({"messages": chat("function:f")}, "messages.tool_choice names the function 'f'"),
        (
            {"messages": chat(), "sampling": lm.SamplingParameters(guide=lm.Guide(json_object=True))},
            "sampling.guide and messages.tools_json",
        ),
        ({"messages": lm.ChatMessages(messages=[lm.ChatMessage(tool_calls_json="5")])}, "messages[0].tool_calls_json"),
    ],
)
async def test_wrong_tools_are_named_and_reach_no_model(rig: Any, request_: dict[str, Any], sentence: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(rig, lm.GenerateRequest(model_name="llm", **request_))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in (caught.value.details() or "")
    assert rig.predictor.requests == []


async def test_wrong_tools_of_an_item_are_named(rig: Any) -> None:
    item = lm.ScoreRequest.Item(messages=chat(tools_json="5"), target_text="x")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await LanguageModelStub(rig.channel).Score(lm.ScoreRequest(model_name="llm", items=[item]))

    assert "items[0]: messages.tools_json must be an array" in (caught.value.details() or "")


async def test_a_schema_that_the_engine_refuses_is_the_tools_fault(rig: Any) -> None:
    rig.predictor.error = InvalidInput("Invalid type: wibble", field="sampling.guide.grammar")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat()))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == (
        "messages.tools_json has a schema that the output cannot be held to: Invalid type: wibble"
    )


async def test_other_errors_of_the_engine_pass_unchanged(rig: Any) -> None:
    rig.predictor.error = InvalidInput("temperature is 9", field="sampling.temperature")

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(rig, lm.GenerateRequest(model_name="llm", messages=chat()))

    assert caught.value.details() == "temperature is 9"


async def test_leaving_a_stream_of_calls_cancels_it_at_the_predictor(rig: Any) -> None:
    rig.predictor.hangs = True
    call = LanguageModelStub(rig.channel).Generate(lm.GenerateRequest(model_name="llm", messages=chat()))
    assert (await call.read()).start.rendered_prompt

    call.cancel()

    await asyncio.wait_for(rig.predictor.was_cancelled.wait(), 5)
