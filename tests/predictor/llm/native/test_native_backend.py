"""The native backend, driven by step plans: near float32 PyTorch, and the same bits however the work is cut."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import gguf
import pytest

from predictor.llm.loader import LoadedModel, load_model
from predictor.llm.native.backend import NativeBackend
from predictor.llm.native.library import NativeLibrary
from predictor.llm.native.loader import NativeModel, load_native
from predictor.llm.readout import LOGIT_ROWS
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan, TokenLogprobs
from predictor.llm.torch_backend import TorchBackend
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.llm.model_folders import write_folder

BLOCK_SIZE = 16
GREEDY = SamplingParams(temperature=0)
SEEDED = SamplingParams(temperature=1.0, top_p=0.95, seed=11, num_logprobs=2)


def load(library: NativeLibrary, path: Path, num_threads: int = 1) -> NativeModel:
    return load_native(path, library, num_threads=num_threads, progress=lambda done, total: None)


def make_backend(
    library: NativeLibrary, path: Path, num_threads: int = 1, block_size: int = BLOCK_SIZE
) -> NativeBackend:
    backend = load(library, path, num_threads).backend
    backend.allocate(96, block_size)
    return backend


def execute(backend: NativeBackend | TorchBackend, *chunks: Chunk) -> list[ChunkResult]:
    return backend.execute(StepPlan(0, chunks))


def random_prompt(length: int, seed: int) -> tuple[int, ...]:
    rng = random.Random(seed)
    return tuple(rng.randrange(3, 260) for _ in range(length))


def scoring(prompt: tuple[int, ...], block_size: int = BLOCK_SIZE) -> Chunk:
    """The whole prompt in one step, with the log-probability of each of its tokens."""
    table = tuple(range(-(-len(prompt) // block_size)))
    return Chunk(1, prompt, 0, table, (Draw(SEEDED),), score_targets=(*prompt[1:], 0))


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_model(tmp_path_factory.mktemp("models") / "small.gguf", SmallModel(tied=False))


def assert_near(library: NativeLibrary, path: Path, block_size: int = BLOCK_SIZE) -> None:
    """Log-probabilities of a random prompt are those of float32 PyTorch, but for what int8 costs.

    The small models' logits spread over tens of units, so that 0.4 is one or two percent of them. A mistake in a kernel
    makes it several units.
    """
    prompt = random_prompt(90, 1)
    reference = TorchBackend(load_model(path, num_threads=1, dtype="float32"))
    reference.allocate(96, block_size)

    scores = execute(make_backend(library, path, block_size=block_size), scoring(prompt, block_size))[0].scores

    expected = execute(reference, scoring(prompt, block_size))[0].scores
    differences = [abs(a.logprob - b.logprob) for a, b in zip(scores, expected, strict=True)]
    assert sum(differences) / len(differences) < 0.4, max(differences)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q8_0", "Q5_0", "BF16", "F32"])
def test_scores_are_near_those_of_float32_torch(library: NativeLibrary, tmp_path: Path, kind: str) -> None:
    quantization = None if kind == "F32" else gguf.GGMLQuantizationType[kind]

    path = write_small_model(tmp_path / "small.gguf", SmallModel(num_layers=3, quantization=quantization))

    assert_near(library, path)


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2"])
def test_folders_of_every_architecture_are_near_float32_torch(
    library: NativeLibrary, tmp_path: Path, model_type: str
) -> None:
    assert_near(library, write_folder(tmp_path / "model", model_type))


@pytest.mark.parametrize(
    "changes",
    [
        {
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "hidden_size": 72,
        },  # head_dim 8, columns no multiple of 32
        {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 64},  # no sharing, more heads than hidden
        {"num_attention_heads": 14, "num_key_value_heads": 1, "hidden_size": 224},  # more heads than rows in a task
        {"intermediate_size": 50, "vocab_size": 389},
    ],
    ids=str,
)
def test_odd_shapes_are_near_float32_torch(library: NativeLibrary, tmp_path: Path, changes: dict[str, int]) -> None:
    assert_near(library, write_folder(tmp_path / "model", changes=changes))


@pytest.mark.parametrize("block_size", [1, 5, 16, 48])
def test_any_block_size_will_do(library: NativeLibrary, small_gguf: Path, block_size: int) -> None:
    assert_near(library, small_gguf, block_size=block_size)


def test_scores_of_smollm2_are_near_those_of_float32_torch(
    library: NativeLibrary, smollm2_gguf: Path, smollm2_float32: LoadedModel
) -> None:
    prompt = tuple(
        smollm2_float32.tokenizer.encode("It is a truth universally acknowledged, that one fish, 2 fish. " * 4)
    )
    reference = TorchBackend(smollm2_float32)
    reference.allocate(64, BLOCK_SIZE)

    scores = execute(make_backend(library, smollm2_gguf), scoring(prompt))[0].scores

    expected = execute(reference, scoring(prompt))[0].scores
    differences = [abs(a.logprob - b.logprob) for a, b in zip(scores, expected, strict=True)]
    # bench/quality.py measures what this costs over thousands of tokens: some 0.5 % of perplexity.
    assert sum(differences) / len(differences) < 0.08


@pytest.mark.parametrize("cuts", [(1,), (16,), (15, 33), (64, 65), tuple(range(1, 90))])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(
    library: NativeLibrary, small_gguf: Path, cuts: tuple[int, ...], num_threads: int
) -> None:
    prompt = random_prompt(90, 1)
    (whole,) = execute(make_backend(library, small_gguf), scoring(prompt))
    backend = make_backend(library, small_gguf, num_threads)
    scores: list[TokenLogprobs] = []
    result = None

    for start, end in itertools.pairwise((0, *cuts, 90)):
        targets = (*prompt[1:], 0)[start:end]
        draws = (Draw(SEEDED),) if end == 90 else ()
        chunk = Chunk(1, prompt[start:end], start, tuple(range(6)), draws, score_targets=targets)
        (result,) = execute(backend, chunk)
        scores.extend(result.scores)

    assert result is not None
    assert (result.token_ids, result.logprobs) == (whole.token_ids, whole.logprobs)
    assert tuple(scores) == whole.scores


def test_no_bit_of_smollm2_hangs_on_chunks_neighbours_places_or_threads(
    library: NativeLibrary, smollm2_gguf: Path, smollm2_float32: LoadedModel
) -> None:
    prompt = tuple(smollm2_float32.tokenizer.encode("One fish, 2 fish, red fish, blue fish. " * 20)[:210])
    targets, table = (*prompt[1:], 0), (40, 3, 60, 1, 0, 33, 12, 11, 10, 9, 63, 22, 21, 2)
    neighbour = Chunk(2, prompt[:33], 0, (50, 51, 52), (Draw(GREEDY),))
    (whole,) = execute(make_backend(library, smollm2_gguf), scoring(prompt))
    backend = make_backend(library, smollm2_gguf, num_threads=2)
    scores: list[TokenLogprobs] = []

    for start, end in itertools.pairwise((0, 17, 50, 51, 84, 200, *range(201, 211))):
        mine = Chunk(1, prompt[start:end], start, table, score_targets=targets[start:end])
        scores.extend(execute(backend, neighbour, mine)[1].scores)

    assert tuple(scores) == whole.scores


def test_decodes_and_prefills_in_one_plan_give_what_they_give_alone(library: NativeLibrary, small_gguf: Path) -> None:
    backend = make_backend(library, small_gguf, num_threads=2)
    decoding = random_prompt(40, 3)
    for table in ((0, 1, 2), (3, 4, 5)):
        execute(backend, Chunk(1, decoding[:39], 0, table))
    mine = Chunk(1, decoding[39:], 39, (0, 1, 2), (Draw(SEEDED),))
    others = [
        Chunk(2, random_prompt(70, 4), 0, (10, 11, 12, 13, 14), (Draw(GREEDY),)),
        Chunk(3, decoding[39:], 39, (3, 4, 5), (Draw(SEEDED),)),
        Chunk(4, random_prompt(5, 6), 0, (30,), (), score_targets=(1, 2, -1, 4, 5)),
    ]
    (alone,) = execute(make_backend(library, small_gguf), Chunk(1, decoding, 0, (7, 8, 9), (Draw(SEEDED),)))

    for order in ([mine, *others], [*others, mine], [others[0], mine, others[1]], [mine]):
        results = execute(backend, *order)
        assert [result.sequence_id for result in results] == [chunk.sequence_id for chunk in order]
        assert results[order.index(mine)] == alone


def test_more_sequences_than_logit_rows(library: NativeLibrary, small_gguf: Path) -> None:
    chunks = [Chunk(i, random_prompt(2, i), 0, (i,), (Draw(GREEDY),)) for i in range(LOGIT_ROWS + 5)]

    together = execute(make_backend(library, small_gguf), *chunks)

    backend = make_backend(library, small_gguf)
    assert together == [execute(backend, chunk)[0] for chunk in chunks]


def test_stale_values_of_a_block_do_not_show(library: NativeLibrary, small_gguf: Path) -> None:
    backend = make_backend(library, small_gguf)
    prompt = random_prompt(20, 8)
    (fresh,) = execute(backend, Chunk(1, prompt, 0, (0, 1), (Draw(SEEDED),)))
    assert backend._cache is not None
    backend._cache.memory[:] = 0xFF  # NaN everywhere

    assert execute(backend, Chunk(1, prompt, 0, (5, 6), (Draw(SEEDED),))) == [fresh]


def test_a_plan_without_chunks_gives_nothing(library: NativeLibrary, small_gguf: Path) -> None:
    assert execute(make_backend(library, small_gguf)) == []


def test_block_bytes_count_keys_and_values_of_all_layers(library: NativeLibrary, small_gguf: Path) -> None:
    # 2 layers, keys and values, 2 KV heads, 16 dimensions of a byte and a scale of four
    assert load(library, small_gguf).backend.block_bytes(16) == 2 * 2 * 2 * (16 + 4) * 16


@pytest.mark.parametrize("num_blocks", [1 << 45, 1 << 70])
def test_a_cache_that_does_not_fit_is_a_memory_error(library: NativeLibrary, small_gguf: Path, num_blocks: int) -> None:
    with pytest.raises(MemoryError, match="KV blocks take"):
        load(library, small_gguf).backend.allocate(num_blocks, BLOCK_SIZE)


def test_warming_up_leaves_no_trace(library: NativeLibrary, small_gguf: Path) -> None:
    prompt = random_prompt(40, 9)
    (expected,) = execute(make_backend(library, small_gguf), Chunk(1, prompt, 0, (0, 1, 2), (Draw(SEEDED),)))
    backend = make_backend(library, small_gguf)
    execute(backend, Chunk(1, prompt[:39], 0, (0, 1, 2)))

    backend.warm_up()

    assert execute(backend, Chunk(1, prompt[39:], 39, (0, 1, 2), (Draw(SEEDED),))) == [expected]


def test_close_is_safe_twice_and_ends_execution(library: NativeLibrary, small_gguf: Path) -> None:
    backend = make_backend(library, small_gguf, num_threads=3)

    backend.close()
    backend.close()

    with pytest.raises(RuntimeError, match="after close"):
        execute(backend, Chunk(1, (5,), 0, (0,)))
