"""What a generation's record holds, however its messages came."""

from __future__ import annotations

import itertools

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


def test_finish_reasons_have_the_words_of_the_rest_protocols() -> None:
    assert finish_reason_name(lm.FINISH_REASON_STOP) == "stop"
    assert finish_reason_name(lm.FINISH_REASON_UNSPECIFIED) is None
