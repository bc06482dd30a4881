"""Any step comes back from its line as it was, and no line, however wrong, is anything but a sentence."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidInput
from predictor.llm.limits import MAX_LOGIT_BIAS, MAX_LOGPROBS, MAX_PENALTY, MAX_SEED, MAX_TEMPERATURE
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan, TokenLogprobs
from predictor.llm.step_json import MAX_LINE_CHARS, RecordedStep, RecordingHead, read_steps, write_head, write_step

HEAD = RecordingHead("hash", "int64", vocab_size=300, num_blocks=64, block_size=4)

token_ids = st.integers(0, HEAD.vocab_size - 1)
tokens = st.lists(token_ids, max_size=8).map(tuple)
logprobs = st.builds(
    TokenLogprobs,
    token_ids,
    st.floats(allow_nan=False),
    st.lists(st.tuples(token_ids, st.floats(allow_nan=False)), max_size=3).map(tuple),
)
sampling = st.builds(
    SamplingParams,
    temperature=st.floats(0, MAX_TEMPERATURE),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    seed=st.integers(0, MAX_SEED),
    num_logprobs=st.integers(-1, MAX_LOGPROBS),
    repetition_penalty=st.floats(0.5, 2),
    frequency_penalty=st.floats(-MAX_PENALTY, MAX_PENALTY),
    presence_penalty=st.floats(-MAX_PENALTY, MAX_PENALTY),
    logit_bias=st.lists(st.tuples(token_ids, st.floats(-MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)), max_size=3).map(tuple),
)
draws = st.builds(Draw, sampling, tokens, tokens, tokens, st.none() | st.binary(max_size=38))


@st.composite
def chunks_with_results(draw: st.DrawFn, sequence_id: int) -> tuple[Chunk, ChunkResult]:
    start = draw(st.integers(0, 60))
    given = draw(st.lists(token_ids, min_size=1, max_size=20).map(tuple))
    num_blocks = -(-(start + len(given)) // HEAD.block_size)
    block_table = draw(st.permutations(range(HEAD.num_blocks)))[:num_blocks]
    targets = draw(st.just(()) | st.tuples(*[st.integers(-1, HEAD.vocab_size - 1)] * len(given)))
    choices = draw(st.lists(draws, max_size=min(3, len(given))).map(tuple))
    chunk = Chunk(sequence_id, given, start, tuple(block_table), choices, targets, draw(st.integers(0, 20)))
    scores = tuple(draw(logprobs) for target in targets if target >= 0)
    chosen = tuple(draw(token_ids) for _ in choices)
    known = draw(st.just(()) | st.tuples(*[logprobs] * len(choices)))
    return chunk, ChunkResult(sequence_id, chosen, known, scores)


@st.composite
def steps(draw: st.DrawFn) -> RecordedStep:
    pairs = [draw(chunks_with_results(number)) for number in range(draw(st.integers(0, 3)))]
    plan = StepPlan(draw(st.integers(0, 2**40)), tuple(chunk for chunk, _ in pairs))
    return RecordedStep(plan, tuple(result for _, result in pairs))


def recorded(*steps: RecordedStep) -> str:
    out = io.StringIO()
    write_head(HEAD, out)
    for step in steps:
        write_step(step, out)
    return out.getvalue()


def read(text: str) -> list[RecordedStep]:
    head, found = read_steps(io.StringIO(text))
    assert head == HEAD
    return list(found)


@given(st.lists(steps(), max_size=3))
def test_steps_come_back_as_they_were(given: list[RecordedStep]) -> None:
    text = recorded(*given)

    assert len(text.splitlines()) == 1 + len(given)
    assert read(text) == given


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(steps(), st.data())
def test_a_changed_line_is_a_step_or_a_sentence(step: RecordedStep, data: st.DataObject) -> None:
    """Some value deep in the line is replaced by another one, of any kind."""
    line: Any = json.loads(recorded(step).splitlines()[1])
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            places.append((value, key))
            collect(value[key])

    collect(line)
    container, key = data.draw(st.sampled_from(places))
    container[key] = data.draw(JSON)

    try:
        (found,) = read(recorded().rstrip() + "\n" + json.dumps(line))
    except InvalidInput as error:
        assert error.message.startswith("line 2: ")
    else:
        for chunk in found.plan.chunks:
            assert max(chunk.token_ids) < HEAD.vocab_size
            assert set(chunk.block_table) <= set(range(HEAD.num_blocks))
            assert len(chunk.block_table) * HEAD.block_size >= chunk.context_len


@given(st.text() | st.binary().map(lambda octets: octets.decode("latin-1")))
def test_any_text_is_a_sentence(text: str) -> None:
    with pytest.raises(InvalidInput, match="line 1: "):
        read(text)


STEP: dict[str, Any] = {
    "step_id": 1,
    "chunks": [{"sequence_id": 7, "token_ids": [1, 2, 3, 4, 5], "start_position": 0, "block_table": [9, 3]}],
    "results": [{"sequence_id": 7}],
}


def changed(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    line: dict[str, Any] = json.loads(json.dumps(STEP))
    change(line)
    return line


def test_a_line_as_short_as_it_can_be_is_taken() -> None:
    (step,) = read(recorded() + json.dumps(STEP))

    assert step.plan.chunks == (Chunk(7, (1, 2, 3, 4, 5), 0, (9, 3)),)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: s["chunks"][0].update(block_table=[9, 64]), "chunks[0].block_table[1] is 64; it must be a whole"),
        (lambda s: s["chunks"][0].update(block_table=[9, 9]), "chunks[0].block_table has a block twice"),
        (lambda s: s["chunks"][0].update(block_table=[9]), "chunks[0].block_table has 1 blocks of 4 for 5 tokens"),
        (lambda s: s["chunks"][0].update(token_ids=[]), "chunks[0].token_ids is empty"),
        (lambda s: s["chunks"][0].update(token_ids=[300]), "chunks[0].token_ids[0] is 300; it must be a whole number"),
        (lambda s: s["chunks"][0].update(start_position=True), "chunks[0].start_position is True"),
        (lambda s: s["chunks"][0].update(start_position=-1), "chunks[0].start_position is -1"),
        (lambda s: s["chunks"][0].update(score_targets=[1]), "score_targets must be one for each token"),
        (lambda s: s["chunks"][0].update(draws=[{"params": {"temperature": 9}}]), "temperature is 9"),
        (lambda s: s["chunks"][0].update(draws=[{"params": {}, "allowed": "?"}]), "draws[0].allowed is not base64"),
        (lambda s: s["chunks"][0].update(draws=[{"params": {}}] * 6), "draws are more than there are tokens"),
        (lambda s: s["chunks"][0].update(shell="x"), "chunks[0] has the unknown field 'shell'"),
        (lambda s: s["chunks"].append(s["chunks"][0]), "chunks has a sequence twice"),
        (lambda s: s.update(results=[]), "results has 0 entries for 1 chunks"),
        (lambda s: s["results"][0].update(sequence_id=8), "results[0] is no answer to chunks[0]"),
        (lambda s: s["results"][0].update(token_ids=[1]), "results[0] is no answer to chunks[0]"),
        (lambda s: s.pop("step_id"), "step_id is missing"),
    ],
)
def test_a_wrong_step_names_the_field(change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read(recorded() + json.dumps(changed(change)))

    assert refusal.value.message.startswith("line 2: ")
    assert sentence in refusal.value.message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "line 1: the recording is empty"),
        ("[]", "line 1: the line is no JSON object"),
        ('{"format": "other"}', "line 1: format must be 'meshserve.steps/2'"),
        ("[" * 100_000, "line 1: is not JSON"),
        ("x" * (MAX_LINE_CHARS + 1), f"line 1: is longer than {MAX_LINE_CHARS} characters"),
    ],
)
def test_what_is_no_recording_is_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read(text)

    assert refusal.value.message == sentence
