"""A request's outputs are the same with and without drafts, whatever it asks for; and drafts save steps.

The model mostly repeats itself after ECHO_ID, so that drafts are sometimes right, sometimes wrong, and sometimes right
beyond the end of an output.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import FinishReason, GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.worker import build_engine
from tests.predictor.llm import hash_model
from tests.predictor.llm.engines import SmallEngine, generation
from tests.predictor.llm.hash_model import ECHO_ID, EOS_ID

ECHO = (ECHO_ID, *b"abcabca")

requests = st.builds(
    generation,
    prompt=st.lists(st.sampled_from(b"abc"), max_size=6).map(lambda end: (*ECHO, *end)),
    max_tokens=st.integers(1, 60),
    sampling=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1.0]),
        seed=st.integers(0, 5),
        num_logprobs=st.sampled_from([-1, 0]),
        presence_penalty=st.sampled_from([0.0, 0.0, 0.5]),
    ),
    stop=st.sampled_from([(), (), ("ca",), ("abcab",), ("bb", "cac")]),
    stop_token_ids=st.sampled_from([(), (), (97,), (120, 121)]),
    ignore_eos=st.booleans(),
    min_tokens=st.integers(0, 20),
    bad_words=st.sampled_from([(), (), ((97, 98, 99, 97),), ((98,), (99, 97))]),
    n=st.integers(1, 3),
    num_prompt_logprobs=st.sampled_from([-1, 0]),
).map(lambda request: replace(request, min_tokens=min(request.min_tokens, request.max_tokens)))


def run(engine: SmallEngine, *asked: GenerationRequest) -> dict[tuple[str, int], GenerationOutput]:
    """Outputs without their times."""
    for request in asked:
        engine.add(request)
    engine.run()
    assert engine.is_empty
    return {key: replace(output, timings=None, first_token_s=None, gaps_s=()) for key, output in engine.outputs.items()}


@settings(deadline=None)
@given(
    requests,
    st.integers(0, 9),
    st.integers(0, 24),
    st.integers(24, 64),
    st.lists(requests, max_size=2),
)
def test_drafts_change_nothing_of_what_a_request_gets(
    asked: GenerationRequest,
    num_draft_tokens: int,
    max_num_tokens: int,
    num_blocks: int,
    others: list[GenerationRequest],
) -> None:
    batch = [asked, *(replace(other, request_id=f"other{i}") for i, other in enumerate(others))]
    engine = SmallEngine(
        num_blocks, num_draft_tokens=num_draft_tokens, max_num_tokens_with_drafts=max_num_tokens, max_num_seqs=9
    )

    outputs = run(engine, *batch)

    plain = {key: output for each in batch for key, output in run(SmallEngine(64, speculation="off"), each).items()}
    # How often somebody is pushed back and whose blocks are found again hang on the company, drafts or not.
    for key, output in outputs.items():
        usage = replace(output.usage, num_cached_tokens=0, num_preemptions=0)
        expected = replace(plain[key].usage, num_cached_tokens=0, num_preemptions=0)
        assert replace(output, usage=usage) == replace(plain[key], usage=expected)
    assert engine.engine.stats().num_generation_tokens == sum(len(output.token_ids) for output in plain.values())


def test_accepted_drafts_save_steps_and_fill_blocks_that_are_found() -> None:
    request = generation(prompt=ECHO, max_tokens=200)
    engine, plain = SmallEngine(64), SmallEngine(64, speculation="off")

    assert run(engine, request) == run(plain, request)

    num_steps, stats = plain.engine.stats().num_steps, engine.engine.stats()
    assert num_steps == 200
    assert stats.num_steps < 120
    assert stats.num_accepted_tokens == num_steps - stats.num_steps
    assert 0 < stats.num_accepted_tokens < stats.num_draft_tokens
    assert stats.num_drafts <= stats.num_steps
    assert engine.pool.num_evictable_blocks == plain.pool.num_evictable_blocks == (len(ECHO) + 199) // 4


def test_an_output_that_ends_in_the_middle_of_a_draft_has_nothing_behind_its_end() -> None:
    whole = run(SmallEngine(64), generation(prompt=ECHO, max_tokens=60))["a", 0].token_ids

    ends_inside = 0
    for length in range(1, 60):
        stop = (bytes(token for token in whole[:length] if token < 128).decode(),)
        engine = SmallEngine(64)
        output = run(engine, generation(prompt=ECHO, max_tokens=60, stop=stop))["a", 0]
        stats = engine.engine.stats()
        ends_inside += stats.num_steps + stats.num_accepted_tokens > len(output.token_ids)
        if output.finish_reason is FinishReason.STOP:
            assert output.token_ids == whole[: len(output.token_ids)]
            assert len(output.token_ids) <= length
            assert output.usage.num_output_tokens == len(output.token_ids)
    assert ends_inside


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_no_draft_reaches_beyond_the_longest_output(max_tokens: int) -> None:
    engine = SmallEngine(4, block_size=4)  # 8 of the prompt, and no block more than the output needs

    output = run(engine, generation(prompt=ECHO, max_tokens=min(max_tokens, 8)))["a", 0]

    assert len(output.token_ids) == min(max_tokens, 8)


def test_tokens_of_one_step_have_one_gap() -> None:
    engine = SmallEngine(64)
    engine.add(generation(prompt=ECHO, max_tokens=50))

    engine.run()

    output = engine.outputs["a", 0]
    assert output.first_token_s == 1.0
    assert len(output.gaps_s) == engine.engine.stats().num_steps - 1 < len(output.token_ids) - 1
    assert sum(output.gaps_s) == engine.engine.stats().num_steps - 1


def test_nothing_is_drafted_for_a_guided_output() -> None:
    engine = SmallEngine(64)

    run(engine, generation(prompt=ECHO, max_tokens=40, guide=GuideSpec(GuideKind.REGEX, "3 30")))

    assert engine.engine.stats().num_drafts == 0


@pytest.mark.parametrize(("device", "deterministic"), [("cpu", False), ("cuda", False), ("cuda", True)])
def test_where_the_size_of_a_step_may_show_in_its_results_nothing_is_drafted(device: str, deterministic: bool) -> None:
    settings = EngineSettings(kv_cache_bytes=2**20, device=device, deterministic=deterministic)
    engine, _ = build_engine(
        hash_model.load(Path("model"), settings, lambda stage, share: None), EngineSpec(Path("model"), settings)
    )

    engine.add(generation(prompt=ECHO, max_tokens=100))
    while engine.has_work:
        engine.step()

    assert (engine.stats().num_drafts > 0) is (device == "cpu" or deterministic)


def test_nothing_is_drafted_in_a_large_step() -> None:
    engine = SmallEngine(64, max_num_seqs=6, max_num_tokens_with_drafts=4)
    for i in range(4):
        engine.add(generation(f"{i}", prompt=(*ECHO, i), max_tokens=20))

    engine.run()

    assert engine.engine.stats().num_drafts == 0


def test_an_end_of_text_in_a_draft_ends_the_output() -> None:
    prompt = (ECHO_ID, *b"ab", EOS_ID, *b"ab", EOS_ID, *b"ab")
    engine = SmallEngine(64)

    output = run(engine, generation(prompt=prompt, max_tokens=50, ignore_eos=False))["a", 0]

    assert output == run(SmallEngine(64, speculation="off"), generation(prompt=prompt, ignore_eos=False))["a", 0]
