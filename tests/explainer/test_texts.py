"""Explanations of answers to prompts, over real channels, from a predictor that scores known words."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.v1 import explain_pb2

PROMPT = "What is the capital of France?"


def request(text: str = PROMPT, **fields: object) -> explain_pb2.ExplainRequest:
    fields = {"model_name": "llm", **fields}
    subject = explain_pb2.TextSubject(text=text, target="Paris")
    return explain_pb2.ExplainRequest(text=subject, **fields)


async def failure(call: object) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_planted_words_carry_the_answer(rig: Any) -> None:
    response = await rig.stub.Explain(request("What is not the capital of France?"))

    [explanation] = response.explanations
    found = {entry.name: entry.value for entry in explanation.attributions}
    assert found == pytest.approx(
        {"What": 0, "is": 0, "not": -1.25, "the": 0, "capital": 2.0, "of": 0, "France?": 3.5}, abs=1e-9
    )
    assert explanation.score == pytest.approx(-10 + 4.25)
    assert explanation.target == "Paris"
    assert not explanation.HasField("base_score")
    assert (response.model_name, response.model_version, response.method) == ("llm", "3", "leave_one_out")


async def test_words_are_placed_in_the_rendered_prompt(rig: Any) -> None:
    rendered = explain_pb2.RenderedPrompt(
        segments=[
            explain_pb2.PromptSegment(text="<user> 👩‍👩‍👧 "),
            explain_pb2.PromptSegment(text="capital of  France?", explainable=True),
            explain_pb2.PromptSegment(text=" <assistant>"),
        ]
    )
    subject = explain_pb2.TextSubject(rendered=rendered, target="Paris")

    response = await rig.stub.Explain(explain_pb2.ExplainRequest(model_name="llm", text=subject))

    [explanation] = response.explanations
    prompt = explanation.rendered_prompt
    assert prompt == "<user> 👩‍👩‍👧 capital of  France? <assistant>"
    places = [(entry.name, prompt[entry.start : entry.start + entry.length]) for entry in explanation.attributions]
    assert places == [("capital", "capital"), ("of", "of"), ("France?", "France?")]
    texts = [item.text for call in rig.predictor.score_requests for item in call.items]
    assert texts == [
        prompt,
        "<user> 👩‍👩‍👧 of  France? <assistant>",
        "<user> 👩‍👩‍👧 capital France? <assistant>",
        "<user> 👩‍👩‍👧 capital of <assistant>",
    ]


async def test_perturbations_go_out_in_few_calls_of_low_priority(rig: Any) -> None:
    response = await rig.stub.Explain(request())

    calls = rig.predictor.score_requests
    assert [len(call.items) for call in calls] == [4, 3]  # 6 words and the whole, at most 4 a call
    assert all(call.priority < 0 for call in calls)
    assert response.predictor_calls == 2
    labels = {"model_name": "llm", "method": "leave_one_out"}
    assert rig.metrics.get_sample_value("meshserve_explainer_predictor_calls_total", labels) == 2
    assert rig.metrics.get_sample_value("meshserve_explainer_explanation_seconds_count", labels) == 1


async def test_without_a_target_the_models_own_greedy_answer_is_explained(rig: Any) -> None:
    subject = explain_pb2.TextSubject(text=PROMPT)

    response = await rig.stub.Explain(explain_pb2.ExplainRequest(model_name="llm", text=subject))

    [asked] = rig.predictor.generate_requests
    assert (asked.text, asked.sampling.temperature, asked.sampling.max_tokens) == (PROMPT, 0.0, 32)
    assert response.explanations[0].target == "Paris"
    # The very tokens of the answer are scored, without the one that ended it.
    assert {tuple(i.target_token_ids.ids) for c in rig.predictor.score_requests for i in c.items} == {(5, 6)}
    assert response.predictor_calls == 3


async def test_shapley_explains_texts_too_and_has_a_base_score(rig: Any) -> None:
    response = await rig.stub.Explain(request("the capital of France?", method="shapley"))

    [explanation] = response.explanations
    assert [entry.value for entry in explanation.attributions] == pytest.approx([0, 2.0, 0, 3.5], abs=1e-9)
    assert explanation.base_score == pytest.approx(-10)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "no word that can be left out"),
        (" \n\t ", "no word that can be left out"),
        ("word " * 513, "513 words that can be left out; an explanation takes at most 512"),
        ("x" * 1_000_001, "1000001 characters"),
        ("y" * 10_001 + " z", "prompt has 5120 tokens"),  # the predictor's own words
    ],
)
async def test_prompts_that_cannot_be_explained(rig: Any, text: str, sentence: str) -> None:
    error = await failure(rig.stub.Explain(request(text)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in (error.details() or "")


@pytest.mark.parametrize(
    ("subject", "sentence"),
    [
        (explain_pb2.TextSubject(), "text has no prompt"),
        (explain_pb2.TextSubject(messages={}), "messages reach the explainer only through a transformer"),
        (explain_pb2.TextSubject(text="a", max_tokens=0), "max_tokens is 0; it must be 1..512"),
        (explain_pb2.TextSubject(text="a", max_tokens=-1), "max_tokens is -1"),
        (explain_pb2.TextSubject(text="a", max_tokens=513), "max_tokens is 513"),
    ],
)
async def test_wrong_subjects(rig: Any, subject: explain_pb2.TextSubject, sentence: str) -> None:
    error = await failure(rig.stub.Explain(explain_pb2.ExplainRequest(model_name="llm", text=subject)))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert sentence in (error.details() or "")


async def test_an_empty_answer_cannot_be_explained(rig: Any) -> None:
    rig.predictor.answer = (("", [2]),)

    error = await failure(
        rig.stub.Explain(explain_pb2.ExplainRequest(model_name="llm", text=explain_pb2.TextSubject(text="a b")))
    )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "own answer to this prompt is empty" in (error.details() or "")
