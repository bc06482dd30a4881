"""What a generation's record holds, however its messages came."""

from __future__ import annotations

import itertools

import orjson

from gateway.generation import Generation, finish_reason_name
from mesh.v1 import language_model_pb2 as lm

REQUEST = lm.GenerateRequest(
    model_name="chat", text="Say hello.", sampling=lm.SamplingParameters(temperature=0, max_tokens=8, stop=["\n"])
)
MESSAGES = [
    lm.GenerateResponse(
        start=lm.GenerationStart(
            model_name="chat", model_version="1", seed=2**64 - 1, prompt_tokens=4, replica="r:1", rendered_prompt="<p>"
        )
    ),
    lm.GenerateResponse(text="Hé", token_ids=[7]),
    lm.GenerateResponse(text="llo", token_ids=[8, 9]),
    lm.GenerateResponse(
        finish_reason=lm.FINISH_REASON_LENGTH,
        usage=lm.Usage(prompt_tokens=4, cached_tokens=1, output_tokens=3),
        timings=lm.Timings(queue_s=0.5, first_token_s=1, total_s=2),
    ),
]


def generation(request: lm.GenerateRequest | bytes = REQUEST, max_bytes: int = 10_000) -> Generation:
    ticks = itertools.count(1.0)
    return Generation(request, started=0.0, clock=lambda: next(ticks), max_bytes=max_bytes)


def test_record_has_prompt_output_and_what_it_took() -> None:
    seen = generation()
    for message in MESSAGES:
        seen.observe(message)

    assert seen.record() == {
        "prompt": {"text": "Say hello."},
        "rendered_prompt": "<p>",
        "sampling": {"temperature": 0.0, "max_tokens": 8, "stop": ["\n"], "seed": 2**64 - 1},
        "output": {"text": "Héllo", "token_ids": [7, 8, 9]},
        "finish_reason": "length",
        "usage": {"prompt_tokens": 4, "cached_tokens": 1, "output_tokens": 3},
        "timings": {
            "first_token_s": 1.0,
            "engine_queue_s": 0.5,
            "engine_first_token_s": 1.0,
            "engine_total_s": 2.0,
        },
        "replica": "r:1",
    }


def test_bytes_make_the_same_record_as_messages() -> None:
    parsed, passed = generation(), generation(REQUEST.SerializeToString())
    for message in MESSAGES:
        parsed.observe(message)
        passed.observe_bytes(message.SerializeToString())

    assert passed.record() == parsed.record()


def test_cut_stream_counts_what_was_seen() -> None:
    seen = generation()
    for message in MESSAGES[:2]:
        seen.observe(message)

    record = seen.record()

    assert record["usage"] == {"prompt_tokens": 4, "cached_tokens": 0, "output_tokens": 1}
    assert record["finish_reason"] is None


def test_bytes_beyond_the_limit_are_not_kept() -> None:
    seen = generation(REQUEST.SerializeToString(), max_bytes=40)
    for _ in range(100):
        seen.observe_bytes(MESSAGES[1].SerializeToString())

    assert seen.size_bytes <= 40
    assert seen.record()["truncated"] is True


def test_malformed_request_bytes_make_a_record_without_prompt() -> None:
    assert generation(b"\xff\xff").record()["prompt"] is None


def test_prompts_of_all_kinds() -> None:
    tokens = lm.GenerateRequest(token_ids=lm.TokenIds(ids=[1, 2]))
    chat = lm.GenerateRequest(messages=lm.ChatMessages(messages=[lm.ChatMessage(role="user", content="hi")]))

    assert generation(tokens).record()["prompt"] == {"token_ids": [1, 2]}
    assert generation(chat).record()["prompt"] == {"messages": [{"role": "user", "content": "hi"}]}


def test_tools_and_calls_of_a_conversation_are_in_the_prompt_as_they_were_sent() -> None:
    calls = '[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]'
    messages = [
        lm.ChatMessage(role="assistant", tool_calls_json=calls),
        lm.ChatMessage(role="tool", content="7", tool_call_id="c", name="f"),
    ]
    chat = lm.GenerateRequest(
        messages=lm.ChatMessages(messages=messages, tools_json="[…]", tool_choice="function:f"),
    )

    assert generation(chat).record()["prompt"] == {
        "messages": [
            {"role": "assistant", "content": "", "tool_calls_json": calls},
            {"role": "tool", "content": "7", "tool_call_id": "c", "name": "f"},
        ],
        "tools_json": "[…]",
        "tool_choice": "function:f",
    }


def test_maps_and_guides_of_the_sampling_parameters_are_plain_values() -> None:
    for guide, plain in (
        (lm.Guide(regex="a+"), {"regex": "a+"}),
        (lm.Guide(choices=lm.Choices(texts=["a", "b"])), {"choices": ["a", "b"]}),
        (lm.Guide(json_object=True), {"json_object": True}),
        (lm.Guide(), {}),
    ):
        sampling = lm.SamplingParameters(logit_bias={7: -1.5, 3: 2}, bad_words=["x"], n=2, guide=guide)

        record = generation(lm.GenerateRequest(text="x", sampling=sampling)).record()

        expected = {"logit_bias": {"3": 2, "7": -1.5}, "bad_words": ["x"], "n": 2, "guide": plain}
        assert record["sampling"] == expected
        assert orjson.loads(orjson.dumps(record)) == record


def test_outputs_of_one_request_are_told_apart_and_counted_together() -> None:
    seen = generation()
    usage = lm.Usage(prompt_tokens=4, cached_tokens=1, output_tokens=2)
    ends = [lm.Timings(queue_s=0.5, first_token_s=first_token_s, total_s=first_token_s + 1) for first_token_s in (1, 2)]
    for message in (
        MESSAGES[0],
        lm.GenerateResponse(index=1, text="B", token_ids=[8]),
        lm.GenerateResponse(index=0, text="A", token_ids=[7]),
        lm.GenerateResponse(index=1, text="b", token_ids=[9], finish_reason=lm.FINISH_REASON_LENGTH, usage=usage,
                            timings=ends[1]),
        lm.GenerateResponse(index=0, token_ids=[2], finish_reason=lm.FINISH_REASON_STOP, usage=usage, timings=ends[0],
                            matched_stop="END"),
    ):  # fmt: skip
        seen.observe(message)

    record = seen.record()

    assert record["output"] == {"text": "A", "token_ids": [7, 2], "matched_stop": "END"}
    assert record["finish_reason"] == "stop"
    assert record["other_outputs"] == [{"index": 1, "text": "Bb", "token_ids": [8, 9], "finish_reason": "length"}]
    assert record["usage"] == {"prompt_tokens": 4, "cached_tokens": 1, "output_tokens": 4}
    assert (record["timings"]["engine_first_token_s"], record["timings"]["engine_total_s"]) == (1, 3)


def test_parts_of_tool_calls_are_joined() -> None:
    seen = generation()
    for delta in (
        lm.ToolCallDelta(index=0, id="c", name="f"),
        lm.ToolCallDelta(index=0, arguments='{"a"'),
        lm.ToolCallDelta(index=0, arguments=": 1}"),
    ):
        seen.observe(lm.GenerateResponse(tool_calls=[delta]))
    seen.observe(lm.GenerateResponse(finish_reason=lm.FINISH_REASON_TOOL_CALLS))

    record = seen.record()

    assert record["output"]["tool_calls"] == [{"id": "c", "name": "f", "arguments": '{"a": 1}'}]
    assert record["finish_reason"] == "tool_calls"


def test_moves_say_from_where_to_where_and_when() -> None:
    seen = generation()
    for message in (
        lm.GenerateResponse(start=lm.GenerationStart(replica="a:1"), text="A", token_ids=[7, 8]),
        lm.GenerateResponse(index=1, text="B", token_ids=[7]),
        lm.GenerateResponse(text="a", token_ids=[9], moved_to="b:2"),
        lm.GenerateResponse(token_ids=[2], moved_to="c:3", finish_reason=lm.FINISH_REASON_STOP),
    ):
        seen.observe(message)

    assert seen.record()["moves"] == [
        {"output": 0, "from": "a:1", "to": "b:2", "after_tokens": 2},
        {"output": 0, "from": "b:2", "to": "c:3", "after_tokens": 3},
    ]
    assert "moves" not in generation().record()


def test_finish_reasons_have_the_words_of_the_rest_protocols() -> None:
    assert finish_reason_name(lm.FINISH_REASON_STOP) == "stop"
    assert finish_reason_name(lm.FINISH_REASON_UNSPECIFIED) is None
