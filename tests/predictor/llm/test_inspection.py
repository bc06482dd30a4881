"""A look inside: every sequence, block and chunk of the last step, as counts, and nothing of what is said."""

from __future__ import annotations

from predictor.llm.inspection import MAX_WAITING_SHOWN, BlockPoolState, ChunkState, Inspection
from predictor.llm.sequence import ScoreRequest
from tests.predictor.llm.engines import SmallEngine, generation
from tests.predictor.llm.hash_model import ECHO_ID


def look_at_crowded_engine(token_id: int) -> Inspection:
    """7 blocks of 4: two long outputs run until one is pushed back, and a third request waits all the time."""
    engine = SmallEngine(7, max_num_seqs=2)
    for number, priority in enumerate((5, 0, -5)):
        engine.add(generation(f"r{number}", (token_id + 10 * number,) * 6, 20, priority=priority))
    while engine.scheduler.num_preemptions == 0:
        engine.step()
    return engine.engine.inspect()


def test_running_preempted_and_waiting_sequences_are_seen() -> None:
    look = look_at_crowded_engine(7)

    (running,), (preempted, waiting) = look.running, look.waiting
    assert (running.request_id, running.priority, running.num_preemptions) == ("r0", 5, 0)
    assert running.num_computed_tokens == running.num_prompt_tokens + running.num_output_tokens - 1
    assert len(running.block_table) == look.block_pool.num_held
    assert (preempted.request_id, preempted.num_preemptions, preempted.block_table) == ("r1", 1, ())
    assert preempted.num_output_tokens > 0
    assert (waiting.request_id, waiting.num_output_tokens, waiting.num_computed_tokens) == ("r2", 0, 0)
    assert waiting.age_s == preempted.age_s > 0
    assert look.num_waiting == 2


def test_the_pool_and_the_last_step_are_seen() -> None:
    look = look_at_crowded_engine(7)

    pool = look.block_pool
    assert pool.num_held + pool.num_evictable + pool.num_blank == pool.num_blocks == 7
    assert pool.num_evictable > 0  # what the preempted one had filled
    (chunk,) = look.last_step.chunks
    assert chunk == ChunkState(0, look.running[0].num_computed_tokens - 1, 1, sampled=True)


def test_a_draft_is_seen() -> None:
    engine = SmallEngine()
    engine.add(generation(prompt=(ECHO_ID, *b"abcabca"), max_tokens=40))
    engine.step()

    engine.step()

    (chunk,) = engine.engine.inspect().last_step.chunks
    assert chunk.num_draft_tokens == len(engine.backend.plan.chunks[0].draft) > 0
    assert chunk.num_tokens == chunk.num_draft_tokens + 1


def test_it_shows_nothing_of_what_is_said() -> None:
    assert look_at_crowded_engine(7) == look_at_crowded_engine(8)


def test_an_engine_before_its_first_step() -> None:
    look = SmallEngine(7).engine.inspect()

    assert (look.running, look.waiting, look.last_step.step_id) == ((), (), -1)
    assert look.block_pool == BlockPoolState(4, 7, 0, 0, 7)


def test_a_score_is_all_prompt() -> None:
    engine = SmallEngine(max_num_batched_tokens=4)
    engine.add(ScoreRequest("s", (1, 2, 3), (4, 5, 6, 7)))
    engine.step()

    (score,) = engine.engine.inspect().running

    assert (score.num_prompt_tokens, score.num_output_tokens, score.num_computed_tokens) == (6, 0, 4)


def test_a_long_queue_is_counted_and_not_listed() -> None:
    num_requests = MAX_WAITING_SHOWN + 5
    engine = SmallEngine(max_num_seqs=1, max_num_waiting=num_requests)
    for number in range(num_requests):
        engine.add(generation(f"r{number}", (1,), 8))

    look = engine.engine.inspect()

    assert (len(look.waiting), look.num_waiting) == (MAX_WAITING_SHOWN, num_requests)
