"""What the parts of a generation are, of the predictor's own messages."""

from __future__ import annotations

from bench.llm.answer import Part, Usage
from bench.llm.grpc_client import part_of
from mesh.v1 import language_model_pb2 as lm


def test_the_first_message_has_no_text_and_the_last_has_the_usage() -> None:
    messages = [
        lm.GenerateResponse(start=lm.GenerationStart(prompt_tokens=30)),
        lm.GenerateResponse(text=" a", token_ids=[1]),
        lm.GenerateResponse(
            text=" b",
            token_ids=[2],
            finish_reason=lm.FINISH_REASON_LENGTH,
            usage=lm.Usage(prompt_tokens=30, output_tokens=2),
        ),
    ]

    assert [part_of(message) for message in messages] == [Part(False), Part(True), Part(True, Usage(30, 2))]
