"""The PyTorch backend, driven by step plans: same tokens however the work is cut, ordered and mixed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from torch import Tensor

from predictor.llm.loader import LoadedModel, load_model
from predictor.llm.models import LanguageModel
from predictor.llm.readout import LOGIT_ROWS
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan, TokenLogprobs
from predictor.llm.tokenizer import Tokenizer, TokenTable
from predictor.llm.torch_backend import TorchBackend
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.transformers_model import greedy_choices, transformers_greedy

BLOCK_SIZE = 16
GREEDY = SamplingParams(temperature=0)
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, seed=11, num_logprobs=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    path = write_small_model(tmp_path_factory.mktemp("models") / "small.gguf", SmallModel())
    return load_model(path, num_threads=1, dtype="float32")


def make_backend(loaded: LoadedModel, num_blocks: int = 64) -> TorchBackend:
    backend = TorchBackend(loaded)
    backend.allocate(num_blocks, BLOCK_SIZE)
    return backend


def random_prompt(length: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 260) for _ in range(length))


def execute(backend: TorchBackend, *chunks: Chunk) -> list[ChunkResult]:
    return backend.execute(StepPlan(0, chunks))


@dataclass
class Running:
    """A sequence of the small scheduler below."""

    prompt: tuple[int, ...]
    num_output_tokens: int
    output: list[int] = field(default_factory=list)
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return (*self.prompt, *self.output)


def generate(
    backend: TorchBackend,
    num_blocks: int,
    sequences: Sequence[Running],
    params: SamplingParams,
    end_id: int,
    rng: random.Random,
) -> None:
    """Random continuous batching: any sequences in a step, prompts cut anywhere, blocks handed out at random."""
    free = list(range(num_blocks))
    rng.shuffle(free)
    unfinished = list(sequences)
    while unfinished:
        batch = rng.sample(unfinished, rng.randint(1, min(8, len(unfinished))))
        chunks = []
        for sequence in batch:
            left = len(sequence.token_ids) - sequence.num_computed
            size = rng.choice([left, rng.randint(1, left)])
            end = sequence.num_computed + size
            while len(sequence.block_table) * BLOCK_SIZE < end:
                sequence.block_table.append(free.pop())
            token_ids = sequence.token_ids[sequence.num_computed : end]
            draws = (Draw(params),) if size == left else ()
            chunks.append(Chunk(id(sequence), token_ids, sequence.num_computed, tuple(sequence.block_table), draws))
        for sequence, chunk, result in zip(batch, chunks, execute(backend, *chunks), strict=True):
            assert result.sequence_id == id(sequence)
            sequence.num_computed = chunk.context_len
            if not result.token_ids:
                continue
            sequence.output += result.token_ids
            if result.token_ids == (end_id,) or len(sequence.output) == sequence.num_output_tokens:
                free.extend(sequence.block_table)
                unfinished.remove(sequence)


def test_random_batching_generates_what_transformers_does(tmp_path: Path) -> None:
    path = write_small_model(tmp_path / "small.gguf", SmallModel(num_layers=3, seed=5))
    prompts = [random_prompt(length, length) for length in (1, 2, 15, 16, 17, 40, 70)]
    expected = transformers_greedy(path, prompts, 24, end_id=2)
    sequences = [Running(prompt, 24) for prompt in prompts]

    generate(make_backend(load_model(path, num_threads=1, dtype="float32")), 64, sequences, GREEDY, 2, random.Random(0))

    assert [sequence.output for sequence in sequences] == expected


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_greedy_output_of_smollm2_equals_transformers(
    smollm2_float32: LoadedModel, smollm2_oracle: Any, smollm2_prompts: list[tuple[int, ...]]
) -> None:
    sequences = [Running(prompt, 64) for prompt in smollm2_prompts]

    generate(make_backend(smollm2_float32, 256), 256, sequences, GREEDY, 2, random.Random(1))

    for sequence in sequences:
        assert sequence.output == greedy_choices(smollm2_oracle, sequence.prompt, sequence.output)


@pytest.mark.parametrize("cuts", [(1,), (16,), (15, 33), (64, 65), tuple(range(1, 90))])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(small: LoadedModel, cuts: tuple[int, ...]) -> None:
    prompt, table = random_prompt(90, 1), tuple(range(6))
    (whole,) = execute(make_backend(small), Chunk(1, prompt, 0, table, (Draw(SEEDED),)))
    backend = make_backend(small)

    bounds = (0, *cuts, 90)
    for start, end in itertools.pairwise(bounds):
        (result,) = execute(backend, Chunk(1, prompt[start:end], start, table, (Draw(SEEDED),) if end == 90 else ()))

    assert result == whole


def test_no_bit_of_smollm2_hangs_on_chunks_or_neighbours(smollm2_float32: LoadedModel) -> None:
    prompt = tuple(smollm2_float32.tokenizer.encode("One fish, 2 fish, red fish, blue fish. " * 20)[:210])
    targets, table = (*prompt[1:], 0), tuple(range(14))
    neighbour = Chunk(2, prompt[:33], 0, (20, 21, 22), (Draw(GREEDY),))
    (whole,) = execute(make_backend(smollm2_float32), Chunk(1, prompt, 0, table, score_targets=targets))
    backend = make_backend(smollm2_float32)
    scores: list[TokenLogprobs] = []

    for start, end in itertools.pairwise((0, 17, 50, 51, 84, 200, *range(201, 211))):
        mine = Chunk(1, prompt[start:end], start, table, score_targets=targets[start:end])
        scores.extend(execute(backend, neighbour, mine)[1].scores)

    assert tuple(scores) == whole.scores


def test_the_place_of_blocks_does_not_show(small: LoadedModel) -> None:
    prompt = random_prompt(90, 2)

    results = [
        execute(make_backend(small), Chunk(1, prompt, 0, table, (Draw(SEEDED),)))
        for table in ((0, 1, 2, 3, 4, 5), (63, 7, 0, 31, 2, 40))
    ]

    assert results[0] == results[1]


def test_neighbours_do_not_show(small: LoadedModel) -> None:
    mine = Chunk(1, random_prompt(1, 3), 0, (9,), (Draw(SEEDED),))
    others = [
        Chunk(2, random_prompt(70, 4), 0, (0, 1, 2, 3, 4), (Draw(GREEDY),)),
        Chunk(3, random_prompt(1, 5), 0, (20,), (Draw(SEEDED),)),
        Chunk(4, random_prompt(5, 6), 0, (30,), (), score_targets=(1, 2, 3, 4, 5)),
    ]
    (alone,) = execute(make_backend(small), mine)

    for order in ([mine, *others], [*others, mine], [others[0], mine, others[1]]):
        results = execute(make_backend(small), *order)
        assert [result.sequence_id for result in results] == [chunk.sequence_id for chunk in order]
        assert results[order.index(mine)] == alone


def test_blocks_are_read_for_a_shared_prefix(small: LoadedModel) -> None:
    prompt = random_prompt(40, 7)
    backend = make_backend(small)
    execute(backend, Chunk(1, prompt[:32], 0, (5, 6)))

    first, second = execute(
        backend,
        Chunk(2, prompt[32:], 32, (5, 6, 7), (Draw(SEEDED),)),
        Chunk(3, prompt[32:], 32, (5, 6, 8), (Draw(SEEDED),)),
    )

    (whole,) = execute(make_backend(small), Chunk(1, prompt, 0, (0, 1, 2), (Draw(SEEDED),)))
    assert first.token_ids == second.token_ids == whole.token_ids


def test_scores_are_those_of_the_wanted_targets(small: LoadedModel) -> None:
    prompt = random_prompt(100, 8)
    targets = (*(-1 if i % 3 == 0 else token for i, token in enumerate(prompt[1:])), -1)
    backend = make_backend(small)

    (scored,) = execute(backend, Chunk(1, prompt, 0, tuple(range(7)), score_targets=targets))

    assert scored.token_ids == ()
    assert len(scored.scores) == sum(target != -1 for target in targets)
    # The same number by another road: as the reported log-probability of a token that top-k 1 would draw.
    position = 50
    (sampled,) = execute(
        backend, Chunk(2, prompt[: position + 1], 0, tuple(range(10, 17)), (Draw(SamplingParams(0, num_logprobs=0)),))
    )
    best = sampled.token_ids
    (again,) = execute(
        backend, Chunk(3, prompt[: position + 1], 0, tuple(range(20, 27)), score_targets=(-1,) * position + best)
    )
    assert [score.logprob for score in again.scores] == pytest.approx([sampled.logprobs[0].logprob], abs=1e-5)


class CountingModel:
    """A model that remembers for how many rows it gave logits at once."""

    def __init__(self, model: LanguageModel) -> None:
        self.config = model.config
        self.forward = model.forward
        self.most_rows = 0
        self._logits = model.logits

    def logits(self, hidden: Tensor) -> Tensor:
        self.most_rows = max(self.most_rows, len(hidden))
        return self._logits(hidden)


def test_log_probabilities_of_a_long_prompt_take_no_more_memory_than_of_a_short_one(small: LoadedModel) -> None:
    counting = CountingModel(small.model)
    prompt = random_prompt(500, 1)
    table = tuple(range(32))

    (result,) = execute(
        make_backend(replace(small, model=counting)),
        Chunk(1, prompt, 0, table, score_targets=(*prompt[1:], 5), num_score_logprobs=20),
    )

    assert len(result.scores) == 500
    assert all(len(entry.top) == 20 for entry in result.scores)
    # Logits are by far the largest thing that a step computes: 200 kB a row for SmolLM2.
    assert counting.most_rows == LOGIT_ROWS


def test_more_sequences_than_logit_rows(small: LoadedModel) -> None:
    num_sequences = LOGIT_ROWS + 5
    chunks = [Chunk(i, random_prompt(2, i), 0, (i,), (Draw(GREEDY),)) for i in range(num_sequences)]

    together = execute(make_backend(small), *chunks)

    alone = [execute(make_backend(small), chunk)[0] for chunk in chunks]
    assert together == alone


def test_logits_that_stand_for_no_token_are_never_chosen(small: LoadedModel) -> None:
    token_bytes = tuple(bytes([i]) for i in range(100))
    table = TokenTable(("x",) * 100, token_bytes, frozenset(), None, None, frozenset(), None)
    backend = make_backend(replace(small, tokenizer=Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), table)))
    draws = [Draw(SamplingParams(temperature=2.0, seed=seed, num_logprobs=5)) for seed in range(30)]

    results = execute(backend, *(Chunk(i, (5, 6, 7), 0, (i,), (draw,)) for i, draw in enumerate(draws)))

    assert small.config.vocab_size > 200
    assert all(len(result.token_ids) == 1 and result.token_ids[0] < 100 for result in results)
    assert all(token_id < 100 for result in results for token_id, _ in result.logprobs[0].top)


def test_a_plan_without_chunks_gives_nothing(small: LoadedModel) -> None:
    assert execute(make_backend(small)) == []


def test_block_bytes_count_keys_and_values_of_all_layers(small: LoadedModel) -> None:
    # 2 layers, keys and values, 2 KV heads, 16 dimensions, 4 bytes
    assert TorchBackend(small).block_bytes(BLOCK_SIZE) == 2 * 2 * 2 * 16 * 4 * BLOCK_SIZE


def test_a_cache_that_does_not_fit_is_a_memory_error(small: LoadedModel) -> None:
    with pytest.raises(MemoryError, match="KV blocks take"):
        TorchBackend(small).allocate(1 << 45, BLOCK_SIZE)


def test_warming_up_leaves_no_trace(small: LoadedModel) -> None:
    prompt = random_prompt(40, 9)
    (expected,) = execute(make_backend(small), Chunk(1, prompt, 0, (0, 1, 2), (Draw(SEEDED),)))
    backend = make_backend(small)
    execute(backend, Chunk(1, prompt[:39], 0, (0, 1, 2)))

    backend.warm_up()

    (result,) = execute(backend, Chunk(1, prompt[39:], 39, (0, 1, 2), (Draw(SEEDED),)))
    assert result.token_ids == expected.token_ids


def test_close_is_safe_twice_and_ends_execution(small: LoadedModel) -> None:
    backend = make_backend(small)

    backend.close()
    backend.close()

    with pytest.raises(RuntimeError, match="after close"):
        execute(backend, Chunk(1, (5,), 0, (0,)))
