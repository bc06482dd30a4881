"""What a token means to the caller: text, an end, or neither yet. `test_engine` checks the same through whole runs."""

from __future__ import annotations

from predictor.llm.output_processor import OutputProcessor
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import FinishReason, GenerationRequest, ScoreRequest, Sequence
from predictor.llm.step import ChunkResult, TokenLogprobs
from tests.predictor.llm.engines import generation
from tests.predictor.llm.hash_model import EOS_ID, HashVocabulary, StrideGuides


def outputs_of(request: GenerationRequest, tokens: bytes | list[int]) -> list[GenerationOutput]:
    """Give `tokens` to a new sequence one by one."""
    processor = OutputProcessor(HashVocabulary(), StrideGuides())
    sequence = Sequence(0, request, arrived_at=10.0)
    sequence.scheduled_at = 11.0
    assert processor.start(sequence) is None
    outputs = []
    for now, token_id in enumerate(tokens, start=12):
        sequence.token_ids.append(token_id)
        output = processor.advance(sequence, ChunkResult(0, (token_id,)), float(now))
        assert isinstance(output, GenerationOutput)
        outputs.append(output)
    return outputs


def test_text_lags_behind_until_a_character_is_whole() -> None:
    outputs = outputs_of(generation(), "aé".encode())

    assert [output.text for output in outputs] == ["a", "", "é"]
    assert [output.usage.num_output_tokens for output in outputs] == [1, 2, 3]


def test_the_last_output_has_what_was_held_back_and_the_times() -> None:
    outputs = outputs_of(generation(max_tokens=3, stop=("xyz",)), b"axy")

    assert [output.text for output in outputs] == ["a", "", "xy"]
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[0].timings is None
    timings = outputs[-1].timings
    assert timings is not None
    assert (timings.queue_s, timings.first_token_s, timings.total_s) == (1.0, 2.0, 4.0)


def test_a_stop_string_wins_over_the_length() -> None:
    outputs = outputs_of(generation(max_tokens=3, stop=("yz",)), b"xyz")

    assert "".join(output.text for output in outputs) == "x"
    assert (outputs[-1].finish_reason, outputs[-1].matched_stop) == (FinishReason.STOP, "yz")


def test_the_end_of_text_gives_out_what_was_held_back() -> None:
    outputs = outputs_of(generation(stop=("ab",), ignore_eos=False), [97, EOS_ID])

    assert [output.text for output in outputs] == ["", "a"]
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert outputs[-1].matched_stop is None


def test_a_score_is_reported_once_it_is_complete() -> None:
    processor = OutputProcessor(HashVocabulary(), StrideGuides())
    sequence = Sequence(0, ScoreRequest("s", (1,), (2, 3)), arrived_at=0.0)
    processor.start(sequence)

    sequence.num_scored = 1
    assert processor.advance(sequence, ChunkResult(0, scores=(TokenLogprobs(2, -1.0),)), 1.0) is None
    sequence.num_scored = 2
    output = processor.advance(sequence, ChunkResult(0, scores=(TokenLogprobs(3, -2.0),)), 2.0)

    assert output is not None
    assert not isinstance(output, GenerationOutput)
    assert output.request_id == "s"
