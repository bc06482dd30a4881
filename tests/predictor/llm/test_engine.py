"""The tokens of a request do not depend on what the engine does besides, and every request comes to its end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mesh.errors import Conflict, Internal, InvalidInput, Overloaded, PromptTooLong
from predictor.llm.guide import GuideKind, GuideSpec
from predictor.llm.sequence import FinishReason, ScoreRequest, output_seed
from predictor.llm.step import SamplingParams
from tests.predictor.llm.engines import GREEDY, SmallEngine, generation
from tests.predictor.llm.hash_model import EOS_ID, FAIL_ID, StrideGuides, continuation, scores

SEEDED = SamplingParams(temperature=1.0, seed=7)
PROMPTS = [tuple((7 * i + j) % 256 for j in range(length)) for i, length in enumerate([1, 3, 4, 5, 17, 30, 31, 40])]


@pytest.mark.parametrize("sampling", [GREEDY, SEEDED])
def test_alone_batched_chunked_cached_and_preempted_requests_say_the_same(sampling: SamplingParams) -> None:
    expected = {prompt: tuple(continuation(prompt, 20, sampling)) for prompt in PROMPTS}
    engines = {
        "roomy": SmallEngine(num_blocks=200, max_num_seqs=8, max_num_batched_tokens=200),
        "one at a time": SmallEngine(num_blocks=200, max_num_seqs=1),
        "tiny chunks": SmallEngine(num_blocks=200, max_num_seqs=2, max_num_batched_tokens=2),
        "few blocks": SmallEngine(num_blocks=16, max_num_seqs=8),
        "no prefix cache": SmallEngine(num_blocks=24, max_num_seqs=8, enable_prefix_caching=False),
    }
    for engine in engines.values():
        for index, prompt in enumerate(PROMPTS * 2):
            engine.add(generation(f"{index}", prompt, 20, sampling=sampling))

        engine.run()

        for index, prompt in enumerate(PROMPTS * 2):
            assert engine.generations[f"{index}"].token_ids == expected[prompt]
            assert engine.generations[f"{index}"].finish_reason is FinishReason.LENGTH
        assert engine.is_empty
    assert engines["few blocks"].scheduler.num_preemptions > 0
    assert engines["roomy"].scheduler.num_preemptions == 0


@pytest.mark.parametrize("num_sent", [1, 5, 19])
def test_a_continued_generation_goes_on_as_if_never_interrupted(num_sent: int) -> None:
    engine = SmallEngine()
    tokens = tuple(continuation((1, 2, 3), 20, SEEDED))

    engine.add(generation(prompt=(1, 2, 3), max_tokens=20, sampling=SEEDED, continue_from=tokens[:num_sent]))
    engine.run()

    assert engine.generations["a"].token_ids == tokens[num_sent:]
    assert engine.generations["a"].usage.num_output_tokens == 20 - num_sent
    assert engine.generations["a"].finish_reason is FinishReason.LENGTH


def test_text_of_a_continued_generation_joins_to_the_whole() -> None:
    prompt, max_tokens, stop = (1, 2, 3), 40, ("bcb",)
    whole = SmallEngine(speculation="off")  # a token a step
    whole.add(generation(prompt=prompt, max_tokens=max_tokens, stop=stop))
    texts = [""]
    while whole.engine.has_work:
        whole.step()
        texts.append(whole.generations["a"].text)
    tokens = whole.generations["a"].token_ids

    for num_sent in range(1, len(tokens)):
        engine = SmallEngine()
        engine.add(generation(prompt=prompt, max_tokens=max_tokens, stop=stop, continue_from=tokens[:num_sent]))
        engine.run()

        assert texts[num_sent] + engine.generations["a"].text == texts[-1]


def test_a_continuation_whose_tokens_are_complete_ends_at_once() -> None:
    engine = SmallEngine()

    engine.add(generation("length", max_tokens=2, continue_from=(97, 98)))
    engine.add(generation("stop", max_tokens=9, continue_from=(97, EOS_ID), ignore_eos=False))

    assert engine.generations["length"].finish_reason is FinishReason.LENGTH
    assert engine.generations["stop"].finish_reason is FinishReason.STOP
    assert engine.is_empty


def test_scores_are_those_of_the_whole_text_even_behind_a_cached_prefix() -> None:
    engine = SmallEngine(max_num_batched_tokens=5)
    prefix, targets = tuple(range(30)), tuple(range(50, 63))

    for request_id in ("first", "second"):
        engine.add(ScoreRequest(request_id, prefix, targets))
        engine.run()

        assert engine.scores[request_id].logprobs == tuple(scores(prefix, targets))
    assert engine.scores["first"].usage.num_cached_tokens == 0
    assert engine.scores["second"].usage.num_cached_tokens == 28
    assert engine.is_empty


def test_a_prefix_hit_never_covers_the_first_wanted_target() -> None:
    engine = SmallEngine()
    tokens = tuple(range(24))
    engine.add(generation("warm", tokens, 1))
    engine.run()

    for num_prefix in (1, 4, 5, 8, 9, 23):
        request = ScoreRequest(f"{num_prefix}", tokens[:num_prefix], tokens[num_prefix:])
        engine.add(request)
        engine.run()

        assert engine.scores[f"{num_prefix}"].logprobs == tuple(scores(request.prefix_token_ids, tokens[num_prefix:]))


def test_a_preempted_score_is_complete() -> None:
    engine = SmallEngine(num_blocks=16, max_num_batched_tokens=4, max_num_seqs=4)
    for i in range(3):
        engine.add(generation(f"{i}", (i,), 40))
        engine.add(ScoreRequest(f"s{i}", (i, 1, 2), tuple(range(20)), priority=-1))

    engine.run()

    for i in range(3):
        assert engine.scores[f"s{i}"].logprobs == tuple(scores((i, 1, 2), tuple(range(20))))
    assert engine.is_empty


def test_prompts_with_a_common_beginning_share_its_blocks() -> None:
    engine = SmallEngine(num_blocks=64)
    engine.add(generation("first", tuple(range(20)), 4))
    engine.run()

    engine.add(generation("same", tuple(range(20)), 4))
    engine.add(generation("other tenant", tuple(range(20)), 4, cache_salt="b"))
    engine.run()

    assert engine.generations["same"].usage.num_cached_tokens == 16
    assert engine.generations["other tenant"].usage.num_cached_tokens == 0
    assert engine.generations["same"].token_ids == engine.generations["other tenant"].token_ids


def test_an_abort_frees_the_blocks_and_ends_the_outputs() -> None:
    engine = SmallEngine()
    engine.add(generation("a", max_tokens=50))
    engine.add(generation("b", max_tokens=5))
    engine.step()

    assert engine.engine.abort("a")
    assert not engine.engine.abort("a")
    engine.run()

    assert engine.generations["a"].finish_reason is None
    assert engine.generations["b"].finish_reason is FinishReason.LENGTH
    assert engine.is_empty


def test_an_abort_racing_the_next_turn_does_not_touch_it() -> None:
    engine = SmallEngine()
    engine.add(generation("a", max_tokens=50))
    engine.step()
    engine.engine.abort("a")
    engine.outputs.clear()

    engine.add(generation("a", max_tokens=6))
    engine.run()

    assert engine.generations["a"].token_ids == tuple(continuation((1, 2, 3), 6, GREEDY))
    assert engine.is_empty


def test_end_of_text_ends_an_output_and_has_no_text() -> None:
    prompt = next((i,) for i in range(256) if EOS_ID in continuation((i,), 400, GREEDY))
    tokens = continuation(prompt, 400, GREEDY)
    length = tokens.index(EOS_ID) + 1
    engine = SmallEngine(num_blocks=200)

    engine.add(generation("stops", prompt, 400, ignore_eos=False))
    engine.add(generation("goes on", prompt, length + 3, ignore_eos=True))
    engine.run()

    assert engine.generations["stops"].token_ids == tuple(tokens[:length])
    assert engine.generations["stops"].finish_reason is FinishReason.STOP
    assert len(engine.generations["goes on"].token_ids) == length + 3


def test_a_stop_token_ends_the_output_without_its_text() -> None:
    engine = SmallEngine()
    prompt = next((i,) for i in range(256) if max(continuation((i,), 3, GREEDY)) < 128)
    tokens = tuple(continuation(prompt, 3, GREEDY))

    engine.add(generation("a", prompt, 10, stop_token_ids=(tokens[2],)))
    engine.run()

    end = tokens.index(tokens[2]) + 1
    assert engine.generations["a"].token_ids == tokens[:end]
    assert engine.generations["a"].text == bytes(tokens[: end - 1]).decode()
    assert engine.generations["a"].finish_reason is FinishReason.STOP


def test_a_stop_string_ends_the_output_before_itself() -> None:
    engine = SmallEngine(num_blocks=300)
    engine.add(generation("whole", (5,), 300))
    engine.add(generation("stopped", (5,), 300, stop=("bc", "nowhere")))
    engine.run()

    whole, stopped = engine.generations["whole"], engine.generations["stopped"]
    assert "bc" in whole.text
    assert stopped.text == whole.text.partition("bc")[0]
    assert (stopped.finish_reason, stopped.matched_stop) == (FinishReason.STOP, "bc")


def test_logprobs_come_one_per_token_when_asked_for() -> None:
    engine = SmallEngine()
    engine.add(generation("with", max_tokens=5, sampling=SamplingParams(temperature=0.0, num_logprobs=0)))
    engine.add(generation("without", max_tokens=5))

    engine.run()

    assert len(engine.generations["with"].logprobs) == 5
    assert engine.generations["without"].logprobs == ()


def test_times_are_counted_from_arrival() -> None:
    engine = SmallEngine(max_num_batched_tokens=4, max_num_seqs=1)
    engine.add(generation("first", max_tokens=2))
    engine.add(generation("second", tuple(range(6)), max_tokens=2))  # starts in step 3, has its prompt in step 4

    engine.run()

    timings = engine.generations["second"].timings
    assert timings is not None
    assert (timings.queue_s, timings.first_token_s, timings.total_s) == (3.0, 4.0, 5.0)
    assert engine.generations["second"].first_token_s == 4.0
    assert engine.generations["second"].gaps_s == (1.0,)


def test_a_first_token_after_prompt_logprobs_is_timed_by_itself() -> None:
    engine = SmallEngine(max_num_batched_tokens=4)
    engine.add(generation("r", tuple(range(8)), max_tokens=1, num_prompt_logprobs=0))

    engine.run()

    output = engine.generations["r"]
    assert output.timings is not None
    assert (output.timings.first_token_s, output.first_token_s) == (1.0, 2.0)


def test_prompt_tokens_are_counted_by_where_they_came_from() -> None:
    engine = SmallEngine()
    for name in ("a", "b"):
        engine.add(generation(name, tuple(range(9)), max_tokens=1))
        engine.run()

    stats = engine.engine.stats()

    assert (stats.num_prompt_tokens, stats.num_cached_prompt_tokens) == (18, 8)


def test_an_output_tells_how_often_it_was_pushed_back() -> None:
    engine = SmallEngine(7, max_num_seqs=2)
    engine.add(generation("first", (1,) * 6, 20, priority=1))
    engine.add(generation("second", (2,) * 6, 20))

    engine.run()

    assert engine.generations["first"].usage.num_preemptions == 0
    assert engine.generations["second"].usage.num_preemptions == engine.scheduler.num_preemptions > 0


def test_a_failed_step_ends_its_requests_and_no_others() -> None:
    engine = SmallEngine(max_num_seqs=1)
    engine.add(generation("bad", (1, FAIL_ID), 5))
    engine.add(generation("good", (1, 2), 5))

    with pytest.raises(RuntimeError):
        engine.step()
    for output in engine.engine.fail_step():
        engine.keep(output)
    engine.run()

    assert isinstance(engine.failures["bad"].error, Internal)
    assert engine.generations["good"].token_ids == tuple(continuation((1, 2), 5, GREEDY))
    assert engine.is_empty


def test_refused_requests_leave_nothing_behind() -> None:
    engine = SmallEngine(num_blocks=4)
    engine.add(generation("a", max_tokens=5))

    with pytest.raises(Conflict):
        engine.add(generation("a"))
    with pytest.raises(PromptTooLong, match="the model takes 16"):
        engine.add(generation("b", (1, 2, 3), 14))
    with pytest.raises(InvalidInput):
        engine.add(generation("c", ()))
    engine.run()

    assert list(engine.generations) == ["a"]
    assert engine.is_empty


def test_stats_count_what_happened() -> None:
    engine = SmallEngine(num_blocks=16)
    for index in range(6):
        engine.add(generation(f"{index}", tuple(range(9)), 20))
    engine.step()
    engine.engine.abort("5")

    running = engine.engine.stats()
    engine.run()
    stats = engine.engine.stats()

    assert running.num_running > 0
    assert running.num_running + running.num_waiting == 5
    assert 0.0 < running.kv_cache_usage <= 1.0
    assert stats.num_finished == {FinishReason.ABORT: 1, FinishReason.LENGTH: 5}
    assert stats.num_generation_tokens == 100
    assert stats.num_prefix_hits > 0
    assert stats.kv_cache_usage == 0.0


def test_outputs_of_one_request_differ_and_each_is_what_it_is_alone() -> None:
    engine = SmallEngine(max_num_seqs=8)

    engine.add(generation("together", (1, 2, 3), 12, sampling=SEEDED, n=3))
    engine.add(generation("third", (1, 2, 3), 12, sampling=SEEDED, sample_index=2))
    engine.run()

    together = [engine.outputs["together", index] for index in range(3)]
    assert len({output.token_ids for output in together}) == 3
    for index, output in enumerate(together):
        sampling = replace(SEEDED, seed=output_seed(SEEDED.seed, index))
        assert output.token_ids == tuple(continuation((1, 2, 3), 12, sampling))
        assert output.finish_reason is FinishReason.LENGTH
    assert engine.outputs["third", 2].token_ids == together[2].token_ids
    assert engine.is_empty


def test_outputs_of_one_request_share_the_blocks_of_its_prompt_from_the_first_step_on() -> None:
    engine = SmallEngine(max_num_seqs=8, max_num_batched_tokens=100)
    prompt = tuple(range(33))

    engine.add(generation("a", prompt, 4, n=4))
    engine.step()

    assert [len(chunk.token_ids) for chunk in engine.backend.plan.chunks] == [33, 1, 1, 1]
    assert engine.pool.num_blocks - engine.pool.num_free_blocks == 8 + 4
    engine.run()
    assert {engine.outputs["a", index].usage.num_cached_tokens for index in range(1, 4)} == {32}
    assert engine.is_empty


def test_an_abort_ends_all_outputs_of_a_request() -> None:
    engine = SmallEngine(max_num_seqs=2)
    engine.add(generation("a", max_tokens=50, n=4))  # two run, two wait
    engine.step()

    assert engine.engine.abort("a")

    assert engine.is_empty
    assert engine.engine.stats().num_finished == {FinishReason.ABORT: 4}


def test_outputs_that_do_not_fit_are_refused_all_together() -> None:
    engine = SmallEngine(max_num_seqs=2, max_num_waiting=3)
    engine.add(generation("a", n=3))

    with pytest.raises(Overloaded, match="3 sequences are in the engine and this request adds 3"):
        engine.add(generation("b", n=3))

    engine.run()
    assert engine.is_empty
    assert "b" not in engine.generations


def test_a_guided_output_ends_where_its_guide_is_complete() -> None:
    engine = SmallEngine()
    guide = GuideSpec(GuideKind.REGEX, "3 9")

    engine.add(generation("a", max_tokens=20, guide=guide, sampling=SEEDED))
    engine.run()

    output = engine.generations["a"]
    assert output.finish_reason is FinishReason.STOP
    assert len(output.token_ids) == 9
    assert output.token_ids == tuple(continuation((1, 2, 3), 20, SEEDED, guide=StrideGuides().start(guide)))
    assert output.token_ids != tuple(continuation((1, 2, 3), 9, SEEDED))


@pytest.mark.parametrize("num_sent", [1, 8, 9])
def test_a_guided_output_that_is_continued_goes_on_as_if_never_interrupted(num_sent: int) -> None:
    guide = GuideSpec(GuideKind.REGEX, "3 9")
    tokens = tuple(continuation((1, 2, 3), 20, SEEDED, guide=StrideGuides().start(guide)))
    engine = SmallEngine()

    sent = tokens[:num_sent]
    engine.add(generation("a", max_tokens=20, guide=guide, sampling=SEEDED, continue_from=sent))
    engine.run()

    assert engine.generations["a"].token_ids == tokens[num_sent:]
    assert engine.generations["a"].finish_reason is FinishReason.STOP


def test_a_guide_that_cannot_be_and_tokens_that_do_not_follow_it_are_refused_and_leave_no_trace() -> None:
    engine = SmallEngine()

    with pytest.raises(InvalidInput, match="grammar is not known here"):
        engine.add(generation("a", guide=GuideSpec(GuideKind.GRAMMAR, "x")))
    with pytest.raises(InvalidInput, match="continue_from has token 1 where the guide does not allow it"):
        engine.add(generation("a", guide=GuideSpec(GuideKind.REGEX, "3 9"), continue_from=(1,)))

    assert engine.is_empty
    engine.add(generation("a"))  # the id is free


def test_a_guide_that_gives_up_ends_its_own_request_and_no_other() -> None:
    engine = SmallEngine(max_num_seqs=8)

    engine.add(generation("bad", max_tokens=20, guide=GuideSpec(GuideKind.REGEX, "3 9 4"), n=2))
    engine.add(generation("good", max_tokens=20))
    engine.run()

    assert isinstance(engine.failures["bad"].error, InvalidInput)
    assert engine.generations["good"].token_ids == tuple(continuation((1, 2, 3), 20, GREEDY))
    assert engine.is_empty
    assert engine.engine.stats().num_finished[FinishReason.ERROR] == 2


def test_no_end_of_text_comes_before_the_shortest_length() -> None:
    prompt = next((i,) for i in range(256) if EOS_ID in continuation((i,), 30, GREEDY))
    length = continuation(prompt, 30, GREEDY).index(EOS_ID) + 1
    engine = SmallEngine(num_blocks=200)

    engine.add(generation("a", prompt, 60, ignore_eos=False, min_tokens=length + 3))
    engine.run()

    output = engine.generations["a"]
    assert len(output.token_ids) >= length + 3
    assert EOS_ID not in output.token_ids[: length + 3]
    assert output.token_ids == tuple(continuation(prompt, 60, GREEDY, min_tokens=length + 3)[: len(output.token_ids)])


def test_prompt_logprobs_come_in_order_before_the_first_token_however_the_prompt_is_cut() -> None:
    prompt = tuple(range(40))
    engine = SmallEngine(max_num_batched_tokens=16)
    engine.add(generation("warms the cache", prompt, 1))
    engine.run()

    engine.add(generation("a", prompt, 3, num_prompt_logprobs=0))
    engine.run()

    output = engine.generations["a"]
    assert [entry.token_id for entry in output.prompt_logprobs] == list(prompt[1:])
    assert [entry.logprob for entry in output.prompt_logprobs] == scores(prompt[:1], prompt[1:])
    assert output.token_ids == tuple(continuation(prompt, 3, GREEDY))
    assert output.usage.num_cached_tokens == 0, "a cached token has no logits to read"


def test_a_request_for_nothing_but_prompt_logprobs_ends_with_them() -> None:
    engine = SmallEngine()

    engine.add(generation("a", (1, 2, 3), 0, num_prompt_logprobs=2))
    engine.add(generation("one token", (1,), 0, num_prompt_logprobs=2))
    engine.run()

    output = engine.generations["a"]
    assert (output.token_ids, output.text, output.finish_reason) == ((), "", FinishReason.LENGTH)
    assert [entry.token_id for entry in output.prompt_logprobs] == [2, 3]
    assert engine.generations["one token"].finish_reason is FinishReason.LENGTH
    assert engine.is_empty


def test_what_a_failed_step_was_to_write_is_never_found() -> None:
    engine = SmallEngine(max_num_batched_tokens=100)
    prompt = tuple(range(12))
    engine.add(generation("fails", (*prompt, FAIL_ID), 4))
    with pytest.raises(RuntimeError, match="asked this step to fail"):
        engine.step()
    engine.engine.fail_step()

    engine.add(generation("a", (*prompt, 5), 4))
    engine.run()

    assert engine.generations["a"].usage.num_cached_tokens == 0
    assert engine.generations["a"].token_ids == tuple(continuation((*prompt, 5), 4, GREEDY))
