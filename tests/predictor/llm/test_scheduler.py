"""The scheduler's decisions, one at a time. `test_scheduler_properties` checks what must hold in any traffic."""

from __future__ import annotations

import pytest

from mesh.errors import Overloaded
from predictor.llm.block_pool import BlockPool
from predictor.llm.scheduler import Scheduler
from predictor.llm.sequence import RejectionReason, Request, ScoreRequest, Sequence, SequenceStatus
from predictor.llm.settings import EngineSettings
from predictor.llm.step import ChunkResult, StepPlan, TokenLogprobs
from tests.predictor.llm.engines import generation


class Driver:
    """A scheduler over blocks of 4 tokens, whose steps yield token 0."""

    def __init__(
        self,
        num_blocks: int = 64,
        max_num_seqs: int = 4,
        max_num_batched_tokens: int = 16,
        max_num_waiting: int = 8,
        max_num_waiting_tokens: int = 1000,
        speculation: str = "off",
    ) -> None:
        self.settings = EngineSettings(
            block_size=4,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_waiting=max_num_waiting,
            max_num_waiting_tokens=max_num_waiting_tokens,
            speculation=speculation,
        )
        self.scheduler = Scheduler(BlockPool(num_blocks, 4), self.settings)
        self.num_added = 0

    def add(self, request: Request) -> Sequence:
        sequence = Sequence(self.num_added, request, 0.0)
        self.num_added += 1
        self.scheduler.add([sequence])
        return sequence

    def prompt(self, num_tokens: int, *, priority: int = 0) -> Sequence:
        """Add a generation whose prompt no other has."""
        tokens = tuple(1000 * (self.num_added + 1) + i for i in range(num_tokens))
        return self.add(generation(f"{self.num_added}", tokens, max_tokens=100, priority=priority))

    def step(self) -> StepPlan:
        plan = self.scheduler.schedule()
        self.scheduler.update(plan, [answer(self, plan, index) for index in range(len(plan.chunks))])
        return plan


def answer(driver: Driver, plan: StepPlan, index: int) -> ChunkResult:
    chunk = plan.chunks[index]
    scores = tuple(TokenLogprobs(target, -1.0) for target in chunk.score_targets if target >= 0)
    return ChunkResult(chunk.sequence_id, (0,) * len(chunk.draws), scores=scores)


def computed(plan: StepPlan) -> list[tuple[int, int, int]]:
    return [(chunk.sequence_id, chunk.start_position, len(chunk.token_ids)) for chunk in plan.chunks]


def test_a_step_mixes_decodes_and_a_chunk_of_a_prompt() -> None:
    driver = Driver()
    driver.prompt(5)
    driver.prompt(20)

    plans = [computed(driver.step()) for _ in range(3)]

    assert plans == [
        [(0, 0, 5), (1, 0, 11)],
        [(0, 5, 1), (1, 11, 9)],
        [(0, 6, 1), (1, 20, 1)],
    ]


def test_a_token_is_sampled_only_at_the_end_of_what_is_known() -> None:
    driver = Driver()
    driver.prompt(20)

    first, second = driver.step(), driver.step()

    assert first.chunks[0].draws == ()
    assert len(second.chunks[0].draws) == 1


def test_a_chunk_has_the_blocks_of_its_context_and_no_more() -> None:
    driver = Driver()
    driver.prompt(20)

    tables = [len(driver.step().chunks[0].block_table) for _ in range(3)]

    assert tables == [4, 5, 6]


def test_a_decode_is_never_held_up_by_a_prompt() -> None:
    driver = Driver(num_blocks=128, max_num_seqs=4, max_num_batched_tokens=4)
    for _ in range(3):
        driver.prompt(1)
    driver.step()
    driver.prompt(100)

    for _ in range(20):
        plan = driver.step()

        assert [chunk.sequence_id for chunk in plan.chunks] == [0, 1, 2, 3]


def test_no_more_than_max_num_seqs_run() -> None:
    driver = Driver(max_num_seqs=2)
    for _ in range(4):
        driver.prompt(1)

    assert len(driver.step().chunks) == 2
    assert len(driver.scheduler.waiting) == 2


def test_higher_priority_is_admitted_first_then_earlier_arrival() -> None:
    driver = Driver(max_num_seqs=1)
    sequences = [driver.prompt(1, priority=priority) for priority in (0, -1, 5, 5)]

    order = []
    for _ in sequences:
        order.append(driver.step().chunks[0].sequence_id)
        driver.scheduler.release(driver.scheduler.running[0])

    assert order == [2, 3, 0, 1]


def test_nothing_overtakes_a_large_request_that_waits_for_blocks() -> None:
    driver = Driver(num_blocks=8)
    first = driver.prompt(16)
    large = driver.prompt(28)
    driver.prompt(1)
    driver.step()

    assert computed(driver.step()) == [(0, 16, 1)]
    driver.scheduler.release(first)

    assert computed(driver.step()) == [(large.sequence_id, 0, 16)]


def test_the_last_in_rank_is_preempted_and_resumes_with_what_it_had() -> None:
    driver = Driver(num_blocks=8)
    urgent, patient = driver.prompt(12), driver.prompt(9)
    driver.step()
    while patient.status is SequenceStatus.RUNNING or patient.num_preemptions == 0:
        driver.step()
    num_tokens = len(patient.token_ids)

    assert (urgent.num_preemptions, patient.num_preemptions) == (0, 1)
    assert patient.block_table == []

    driver.scheduler.release(urgent)
    plan = driver.step()

    assert plan.chunks[0].context_len == num_tokens
    assert plan.chunks[0].start_position == 12  # its first blocks were still in the cache


def test_a_high_priority_sequence_is_preempted_last_whenever_it_came() -> None:
    driver = Driver(num_blocks=8)
    patient, urgent = driver.prompt(9), driver.prompt(12, priority=1)

    for _ in range(16):
        driver.step()

    assert urgent.num_preemptions == 0
    assert patient.num_preemptions == 1


def test_a_long_prompt_is_admitted_only_with_room_for_the_others_to_grow_meanwhile() -> None:
    driver = Driver(num_blocks=20, max_num_seqs=6, max_num_batched_tokens=7)
    for _ in range(5):
        driver.prompt(1)
    driver.step()
    newcomer = driver.prompt(24)  # 2 tokens a step: 12 steps, in which each of the others takes 3 blocks

    for _ in range(12):
        driver.step()

    assert driver.scheduler.num_preemptions == 0
    assert newcomer.status is SequenceStatus.WAITING


def test_a_sequence_that_is_alone_may_use_every_block() -> None:
    driver = Driver(num_blocks=4)
    sequence = driver.prompt(14)

    driver.step()
    driver.step()
    driver.step()

    assert len(sequence.token_ids) == 17
    assert driver.scheduler.num_preemptions == 0


def test_too_many_requests_are_refused_and_leave_no_trace() -> None:
    driver = Driver(max_num_seqs=2, max_num_waiting=3)
    for _ in range(5):
        driver.prompt(1)

    with pytest.raises(Overloaded, match="5 sequences are in the engine .* at most 2 run and 3 wait"):
        driver.prompt(1)

    driver.scheduler.release(driver.scheduler.waiting[0])
    driver.prompt(1)
    assert len(driver.scheduler.waiting) == 5
    assert driver.scheduler.num_rejected == {RejectionReason.REQUESTS: 1}


def test_too_many_waiting_tokens_are_refused_but_a_single_large_request_is_not() -> None:
    driver = Driver(max_num_waiting_tokens=10)
    driver.prompt(50)

    with pytest.raises(Overloaded, match="50 tokens are waiting and this request adds 1"):
        driver.prompt(1)
    assert driver.scheduler.num_rejected == {RejectionReason.TOKENS: 1}

    driver.step()
    driver.prompt(10)


def test_release_is_idempotent_in_every_state() -> None:
    driver = Driver()
    running, waiting = driver.prompt(5), driver.prompt(5)
    driver.step()
    waiting = driver.prompt(5)

    for sequence in (running, waiting, running, waiting, *driver.scheduler.running):
        driver.scheduler.release(sequence)

    assert running.status is waiting.status is SequenceStatus.FINISHED
    assert not driver.scheduler.has_work
    assert driver.scheduler.pool.num_free_blocks == 64


def test_a_score_is_scheduled_like_a_prompt_and_asks_for_its_targets() -> None:
    driver = Driver(max_num_batched_tokens=4)
    driver.add(ScoreRequest("s", (1, 2, 3), (4, 5, 6, 7)))

    plans = [driver.step(), driver.step()]

    assert [chunk.token_ids for plan in plans for chunk in plan.chunks] == [(1, 2, 3, 4), (5, 6)]
    assert [chunk.score_targets for plan in plans for chunk in plan.chunks] == [(-1, -1, 4, 5), (6, 7)]
    assert all(not chunk.draws for plan in plans for chunk in plan.chunks)


def test_a_prompt_that_is_cached_whole_still_computes_its_last_token() -> None:
    driver = Driver()
    first = driver.add(generation("a", tuple(range(8))))
    driver.step()
    driver.scheduler.release(first)

    driver.add(generation("b", tuple(range(8))))

    assert computed(driver.step()) == [(1, 4, 4)]


def test_cached_blocks_are_shared_while_their_first_owner_runs() -> None:
    driver = Driver()
    first = driver.add(generation("a", tuple(range(10))))
    driver.step()

    second = driver.add(generation("b", tuple(range(10))))
    driver.step()

    assert second.block_table[:2] == first.block_table[:2]
    assert second.block_table[2] != first.block_table[2]


def test_the_time_of_admission_is_that_of_the_first_one() -> None:
    driver = Driver(num_blocks=8)
    sequence = driver.prompt(3)

    driver.scheduler.schedule(now=5.0)

    assert sequence.scheduled_at == 5.0


def test_a_priority_is_worth_a_head_start_and_no_more() -> None:
    scheduler = Scheduler(BlockPool(64, 4), EngineSettings(block_size=4, priority_head_start_s=30.0))
    arrivals = [(0, 100.0), (1, 129.0), (1, 131.0), (-1, 90.0), (0, 100.0)]

    for index, (priority, arrived_at) in enumerate(arrivals):
        scheduler.add([Sequence(index, generation(str(index), priority=priority), arrived_at)])

    # 1 came 29 s after 0 and passes it; 2 came 31 s after and does not, for 0 has waited so long.
    assert [sequence.sequence_id for sequence in scheduler.waiting] == [1, 0, 4, 2, 3]
