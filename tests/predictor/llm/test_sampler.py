"""The sampler against slow, obvious references; its noise; and its indifference to neighbours."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from predictor.llm import sampler
from predictor.llm.gumbel import gumbel_noise, noise_stream
from predictor.llm.sampler import logprobs
from predictor.llm.step import Draw, SamplingParams

GREEDY = SamplingParams(temperature=0)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Rows are small: to wait for a second thread takes longer than the work does, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def sample(logits: Tensor, params: Sequence[SamplingParams], positions: Sequence[int]) -> list[int]:
    """The tokens of rows that neither history nor guide has a say in."""
    return sampler.sample(logits, [Draw(row_params) for row_params in params], positions)


def random_logits(rows: int, vocab_size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * 3


def kept_tokens(logits: Tensor, params: SamplingParams) -> dict[int, float]:
    """The truncated distribution, token by token, in plain Python."""
    weights = {
        i: math.exp((value - float(logits.max())) / params.temperature) for i, value in enumerate(logits.tolist())
    }
    ranked = sorted(weights, key=lambda i: -weights[i])
    if params.top_k:
        ranked = ranked[: params.top_k]
    total = sum(weights[i] for i in ranked)
    nucleus: list[int] = []
    mass = 0.0
    for i in ranked:
        if nucleus and mass >= params.top_p * total:
            break
        nucleus.append(i)
        mass += weights[i]
    kept = {i: weights[i] for i in nucleus if weights[i] >= params.min_p * weights[ranked[0]]}
    return {i: weight / sum(kept.values()) for i, weight in kept.items()}


def drawn(logits: Tensor, params: SamplingParams, num_draws: int) -> Counter[int]:
    rows = logits.unsqueeze(0).expand(num_draws, -1)
    return Counter(sample(rows, [params] * num_draws, range(num_draws)))


def test_temperature_zero_takes_the_likeliest() -> None:
    logits = random_logits(5, 100)

    assert sample(logits, [GREEDY] * 5, range(5)) == logits.argmax(dim=-1).tolist()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.6),
        SamplingParams(temperature=2.0, top_k=7),
        SamplingParams(top_p=0.8),
        SamplingParams(temperature=1.5, min_p=0.1),
        SamplingParams(temperature=1.3, top_k=12, top_p=0.9, min_p=0.02, seed=99),
    ],
    ids=str,
)
def test_draws_follow_the_truncated_distribution(params: SamplingParams) -> None:
    logits = random_logits(1, 24, seed=3)[0] / 2
    expected = kept_tokens(logits, params)
    num_draws = 20_000

    counts = drawn(logits, params, num_draws)

    assert counts.keys() <= expected.keys()
    for token_id, probability in expected.items():
        deviation = math.sqrt(num_draws * probability * (1 - probability))
        # Five standard deviations, and room for tokens that are expected less than once.
        assert abs(counts[token_id] - num_draws * probability) <= 5 * deviation + 3, token_id


@settings(max_examples=200, deadline=None)
@given(
    vocab_size=st.sampled_from([3, 50, 1000, 5000]),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 1200),
    top_p=st.floats(0.01, 1),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
    seed=st.integers(0, (1 << 64) - 1),
    position=st.integers(0, 1 << 20),
)
def test_a_draw_is_never_outside_what_truncation_keeps(
    vocab_size: int, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, position: int
) -> None:
    params = SamplingParams(temperature, top_k, top_p, min_p, seed)
    logits = random_logits(1, vocab_size, seed=seed & 0xFFFF)
    # A nucleus may end one token later by the rounding of weights.
    allowed = kept_tokens(
        logits[0], SamplingParams(temperature, top_k, min(1.0, top_p + 1e-5), min_p * (1 - 1e-6), seed)
    )

    (token_id,) = sample(logits, [params], [position])

    assert token_id in allowed


def test_truncation_that_keeps_most_of_the_vocabulary_loses_no_token() -> None:
    logits = torch.zeros(6000)
    logits[::2] = -0.1

    counts = drawn(logits, SamplingParams(top_p=0.9999), 3000)

    assert len(counts) > 2000
    assert any(token_id % 2 for token_id in counts)


@settings(max_examples=50, deadline=None)
@given(st.permutations(range(6)), st.integers(1, 6))
def test_a_row_draws_the_same_in_any_batch(order: list[int], size: int) -> None:
    logits = random_logits(6, 500, seed=1)
    params = [
        SamplingParams(seed=1),
        GREEDY,
        SamplingParams(seed=2, top_p=0.7),
        SamplingParams(seed=3, temperature=3, top_k=40),
        SamplingParams(seed=4, min_p=0.05, temperature=2),
        SamplingParams(seed=5, temperature=0.3, num_logprobs=2),
    ]
    alone = [sample(logits[i : i + 1], [params[i]], [10 + i])[0] for i in range(6)]
    batch = order[:size]

    together = sample(logits[batch], [params[i] for i in batch], [10 + i for i in batch])

    assert together == [alone[i] for i in batch]


def test_noise_hangs_on_seed_and_position_alone() -> None:
    logits = torch.zeros(1, 1000)

    def draw(seed: int, position: int) -> int:
        return sample(logits, [SamplingParams(seed=seed)], [position])[0]

    assert draw(7, 3) == draw(7, 3)
    assert len({draw(7, position) for position in range(100)}) > 80
    assert len({draw(seed, 3) for seed in range(100)}) > 80
    assert len({draw(seed, 100 - seed) for seed in range(100)}) > 80
    # 64 bits count, and a negative seed is its own two's complement.
    assert draw(1 << 63, 3) != draw(0, 3)
    assert draw(-1, 3) == draw((1 << 64) - 1, 3)


def test_dropping_a_token_that_did_not_win_changes_nothing() -> None:
    logits = random_logits(1, 200, seed=5)
    params = SamplingParams(temperature=1.5, seed=8)
    winner = sample(logits, [params], [0])[0]
    others = [i for i in range(200) if i != winner]

    without = logits.clone()
    without[0, others[::3]] = -torch.inf

    assert sample(without, [params], [0]) == [winner]


def splitmix(word: int) -> int:
    mask = (1 << 64) - 1
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 & mask
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB & mask
    return word ^ (word >> 31)


def test_the_draw_equals_one_made_with_python_integers() -> None:
    golden, mask = 0x9E3779B97F4A7C15, (1 << 64) - 1
    logits = random_logits(1, 300, seed=2)
    seed, position = 0xFEDCBA9876543210, 41
    stream = splitmix((splitmix((seed + golden) & mask) + (position + 1) * golden) & mask)
    race = []
    for token_id, logit in enumerate(logits[0].tolist()):
        uniform = ((splitmix((stream + token_id * golden) & mask) >> 12) + 0.5) * 2.0**-52
        race.append(logit - math.log(-math.log(uniform)))

    assert sample(logits, [SamplingParams(seed=seed)], [position]) == [int(np.argmax(race))]


@pytest.mark.parametrize("temperature", [1e-8, 1e-300])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    logits = random_logits(4, 100) * 10

    assert sample(logits, [SamplingParams(temperature=temperature)] * 4, range(4)) == logits.argmax(dim=-1).tolist()


def test_a_huge_temperature_is_uniform() -> None:
    counts = drawn(random_logits(1, 10)[0], SamplingParams(temperature=1e9), 10_000)

    assert min(counts.values()) > 850


@pytest.mark.parametrize(
    "params", [GREEDY, SamplingParams(seed=3), SamplingParams(top_p=0.9, top_k=3, seed=3)], ids=str
)
def test_what_is_no_number_is_never_chosen(params: SamplingParams) -> None:
    logits = torch.full((3, 40), -torch.inf)
    logits[0, ::2] = torch.nan
    logits[0, 17] = -5.0
    logits[1, 3:] = torch.nan
    logits[2, 5] = torch.inf
    logits[2, 6:] = 1.0

    assert sample(logits, [params] * 3, range(3)) == [17, 0, 5]


def test_a_race_that_is_nearly_a_tie_is_decided_exactly() -> None:
    """The two best results differ in their last bits, where torch's logarithm cannot be trusted."""
    logits = torch.tensor([[0.0, -1.0]])
    for seed in range(50):
        noise = [gumbel_noise(noise_stream(seed, 0), token_id) for token_id in range(2)]
        if noise[1] <= noise[0]:
            continue
        temperature = 1 / (noise[1] - noise[0])
        for _ in range(3):
            results = [logit / temperature + x for logit, x in zip((0.0, -1.0), noise, strict=True)]
            assert abs(results[0] - results[1]) < 1e-14

            drawn = sample(logits, [SamplingParams(temperature, seed=seed)], [0])

            assert drawn == [results.index(max(results))]
            temperature = math.nextafter(temperature, math.inf)


def test_logprobs_come_from_the_raw_distribution() -> None:
    logits = random_logits(3, 50)
    reference = torch.log(torch.exp(logits.double()) / torch.exp(logits.double()).sum(dim=-1, keepdim=True))

    first, second, third = logprobs(logits, [4, 5, 6], [0, -1, 3])

    assert second is None
    assert first is not None and third is not None
    assert first.logprob == pytest.approx(float(reference[0, 4]), abs=1e-5)
    assert first.top == ()
    assert third.logprob == pytest.approx(float(reference[2, 6]), abs=1e-5)
    best = reference[2].argsort(descending=True)[:3].tolist()
    assert [token_id for token_id, _ in third.top] == best
    assert [value for _, value in third.top] == pytest.approx(reference[2, best].tolist(), abs=1e-5)


def test_more_logprobs_than_tokens_gives_them_all() -> None:
    (result,) = logprobs(random_logits(1, 4), [0], [10])

    assert result is not None
    assert len(result.top) == 4


def test_scores_are_log_probabilities() -> None:
    logits = random_logits(3, 50) * 10
    reference = logits.double().log_softmax(dim=-1)

    scores = logprobs(logits, [1, 2, 3], [0, 0, 0])

    assert [score.token_id for score in scores if score] == [1, 2, 3]
    expected = [float(reference[i, i + 1]) for i in range(3)]
    assert [score.logprob for score in scores if score] == pytest.approx(expected, abs=1e-4)
