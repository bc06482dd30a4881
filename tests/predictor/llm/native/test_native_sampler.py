"""The native sampler chooses what PyTorch's chooses, on random rows and the awkward ones, whatever computes it."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mesh.errors import Internal
from predictor.llm import sampler
from predictor.llm.gumbel import gumbel_noise, noise_stream
from predictor.llm.native.compiler import build
from predictor.llm.native.library import NativeLibrary
from predictor.llm.native.sampler import NativeSampler
from predictor.llm.native.targets import AVX2, PORTABLE, Target, cpu_flags
from predictor.llm.step import Draw, SamplingParams, TokenLogprobs

# Builds may have to be made first, on a busy machine.
pytestmark = pytest.mark.timeout(300)

GREEDY = SamplingParams(temperature=0)
# One token, fewer than a vector's lanes, whole vectors, one block and more, a vocabulary with a broken last vector.
VOCAB_SIZES = (1, 2, 5, 16, 17, 100, 128, 1000, 5001, 49_152)
ROWS = ("normal", "equal", "ties", "masked", "NaN", "infinite", "all masked", "NaN alone", "huge")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Of PyTorch's, as beside the native backend."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=(None, AVX2, PORTABLE), ids=lambda target: target.name if target else "best")
def any_library(request: pytest.FixtureRequest, artifact_cache_dir: Path) -> NativeLibrary:
    target: Target | None = request.param
    if target and not target.cpu_flags <= cpu_flags():
        pytest.skip(f"this CPU is no {target.name}")
    return NativeLibrary(build(artifact_cache_dir, target=target))


@pytest.fixture
def native(any_library: NativeLibrary) -> Iterator[NativeSampler]:
    team = any_library.new_team(2)
    yield NativeSampler(any_library, team)
    any_library.free_team(team)


def random_row(kind: str, vocab_size: int, rng: random.Random) -> Tensor:
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    row = torch.randn(vocab_size, generator=generator) * rng.choice([0.01, 1, 3, 10])
    some = torch.rand(vocab_size, generator=generator) < rng.choice([0.1, 0.7])
    match kind:
        case "equal":
            return torch.full_like(row, 1.5)
        case "ties":
            return (row * 2).round() / 2
        case "masked":
            return row.masked_fill(some, -torch.inf)
        case "NaN":
            return row.masked_fill(some, torch.nan)
        case "infinite":
            return row.masked_fill(some, torch.inf)
        case "all masked":
            return torch.full_like(row, -torch.inf)
        case "NaN alone":
            return torch.full_like(row, torch.nan)
        case "huge":
            return row * 1e37
    return row


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        temperature=rng.choice([0, 1e-300, 1e-8, 0.3, 1, 1, 1, 2, 50, 1e9]),
        top_k=rng.choice([0, 0, 1, 2, 7, 50, 1000, 2**31 - 1]),
        top_p=rng.choice([1, 1, 0.95, 0.5, 0.01, 1e-300, 0.9999, 1 - 1e-12]),
        min_p=rng.choice([0, 0, 0, 0.05, 0.5, 1]),
        seed=rng.choice([rng.getrandbits(64), -rng.getrandbits(20)]),
    )


def bitmap(allowed: Tensor) -> bytes:
    return np.packbits(allowed.numpy(), bitorder="little").tobytes()


@pytest.mark.parametrize("kind", ROWS)
def test_it_chooses_what_torch_chooses(native: NativeSampler, kind: str) -> None:
    rng = random.Random(ROWS.index(kind))
    for vocab_size in VOCAB_SIZES:
        for _ in range(20 if vocab_size < 40_000 else 5):
            logits = torch.stack([random_row(kind, vocab_size, rng) for _ in range(3)])
            draws = [Draw(random_params(rng)) for _ in range(3)]
            positions = [rng.randrange(1 << 20) for _ in range(3)]

            assert native.sample(logits.numpy(), draws, positions) == sampler.sample(logits, draws, positions), draws


@pytest.mark.parametrize("vocab_size", [1, 21, 1000])
def test_it_adjusts_as_torch_does(native: NativeSampler, vocab_size: int) -> None:
    rng = random.Random(vocab_size)

    def tokens(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocab_size) for _ in range(rng.randint(0, most)))

    for case in range(200):
        allowed = bitmap(torch.rand(vocab_size) < rng.choice([0.01, 0.5]))
        params = SamplingParams(
            temperature=case % 2,
            seed=case,
            repetition_penalty=rng.choice([1.0, 1.3, 0.5]),
            frequency_penalty=rng.choice([0.0, 0.7, -2.0]),
            presence_penalty=rng.choice([0.0, 1.5, -0.3]),
            logit_bias=tuple({token_id: rng.uniform(-9, 9) for token_id in tokens(3)}.items()),
        )
        banned = rng.choice([(), tokens(4), tuple(range(vocab_size))])
        draw = Draw(params, tokens(20), tokens(20), banned, rng.choice([None, allowed, allowed[:-1], b""]))
        logits = torch.stack([random_row("ties", vocab_size, rng), random_row("normal", vocab_size, rng)])
        before = logits.clone()

        assert native.sample(logits.numpy(), [draw, draw], [0, 1]) == sampler.sample(logits, [draw, draw], [0, 1]), draw
        assert torch.equal(logits, before), "the model's own logits are still wanted: log-probabilities come from them"


def test_a_race_that_is_nearly_a_tie_is_decided_as_torch_decides_it(native: NativeSampler) -> None:
    logits = torch.full((1, 40), -10.0)
    logits[0, 0], logits[0, 30] = 0.0, -1.0
    num_ties = 0
    for seed in range(300):
        first, second = (gumbel_noise(noise_stream(seed, 5), token_id) for token_id in (0, 30))
        if second <= first:
            continue
        num_ties += 1
        temperature = 1 / (second - first)
        for _ in range(3):
            draws = [Draw(SamplingParams(temperature, seed=seed))]
            assert native.sample(logits.numpy(), draws, [5]) == sampler.sample(logits, draws, [5])
            temperature = math.nextafter(temperature, math.inf)
    assert num_ties > 100


def test_noise_and_weights_have_the_bits_of_their_twins(any_library: NativeLibrary) -> None:
    noise = np.empty(3000)
    x = np.concatenate([np.linspace(-100, 0, 16_000), [0.0, -0.0, -np.inf, -87, *[-1e-30] * 12]]).astype(np.float32)
    weights = np.empty_like(x)

    any_library.gumbel(0xFEDCBA9876543210, 41, noise)
    any_library.weights(x, weights)

    stream = noise_stream(0xFEDCBA9876543210, 41)
    assert noise.tolist() == [gumbel_noise(stream, token_id) for token_id in range(3000)]
    np.testing.assert_array_equal(weights, sampler._weights(torch.from_numpy(x), 1.0).numpy())
    np.testing.assert_allclose(weights, np.exp(x.astype(np.float64)), rtol=3e-7, atol=2**-35 + 1e-15)
    assert (np.ldexp(weights.astype(np.float64), 34) % 1 == 0).all()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(seed=1),
        SamplingParams(temperature=0.6, seed=2),
        SamplingParams(temperature=2.0, top_k=9, seed=3),
        SamplingParams(top_p=0.8, seed=4),
        SamplingParams(temperature=1.5, min_p=0.1, seed=5),
        SamplingParams(temperature=1.3, top_k=14, top_p=0.9, min_p=0.02, seed=6),
    ],
    ids=str,
)
def test_draws_follow_the_truncated_distribution(library: NativeLibrary, params: SamplingParams) -> None:
    logits = torch.randn(24, generator=torch.Generator().manual_seed(3)) * 1.5
    probabilities = (logits.double() / params.temperature).softmax(dim=0)
    ranked = probabilities.sort(descending=True)
    kept = torch.zeros(24, dtype=torch.bool)
    kept[ranked.indices[: params.top_k or 24]] = True
    mass = ranked.values[: params.top_k or 24].sum() * params.top_p
    kept[ranked.indices[int((ranked.values.cumsum(0) < mass).sum()) + 1 :]] = False
    kept &= probabilities >= params.min_p * probabilities.max()
    expected = torch.where(kept, probabilities, 0.0)
    num_draws = 200_000
    expected *= num_draws / expected.sum()
    team = library.new_team(2)

    drawn = NativeSampler(library, team).sample(
        logits.expand(num_draws, -1).numpy(), [Draw(params)] * num_draws, range(num_draws)
    )

    library.free_team(team)
    counts = torch.bincount(torch.tensor(drawn), minlength=24)
    assert int(counts[~kept].sum()) == 0
    chi_square = float(((counts - expected)[kept] ** 2 / expected[kept]).sum())
    freedom = int(kept.sum()) - 1
    # The mean of chi-square is its degrees of freedom, the variance twice that: four deviations.
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom), Counter(drawn)


def test_a_row_has_the_same_result_in_any_batch_on_any_threads_in_any_build(
    library: NativeLibrary, any_library: NativeLibrary
) -> None:
    rng = random.Random(5)
    logits = torch.stack([random_row(rng.choice(ROWS), 3001, rng) for _ in range(40)])
    draws = [Draw(random_params(rng), output_token_ids=(1, 2), banned=(5,) * (i % 2)) for i in range(40)]
    num_top = [i % 7 - 1 for i in range(40)]
    results: list[tuple[list[int], str]] = []

    for kernels in (library, any_library):
        for num_threads in (1, 2, 5):
            team = kernels.new_team(num_threads)
            native = NativeSampler(kernels, team)
            # In text, since a NaN does not equal itself.
            results.append(
                (
                    native.sample(logits.numpy(), draws, range(40)),
                    str(native.logprobs(logits.numpy(), [7] * 40, num_top)),
                )
            )
            alone = [native.sample(logits[i : i + 1].numpy(), [draws[i]], [i])[0] for i in range(40)]
            told = [native.logprobs(logits[i : i + 1].numpy(), [7], [num_top[i]])[0] for i in range(40)]
            results.append((alone, str(told)))
            kernels.free_team(team)

    assert results == results[:1] * len(results)


def test_what_lies_beyond_a_row_is_not_looked_at(native: NativeSampler) -> None:
    buffer = torch.full((3, 64), torch.inf)
    buffer[:, :37] = torch.randn(3, 37, generator=torch.Generator().manual_seed(1))
    logits, alone = buffer[:, :37], buffer[:, :37].clone()
    draws = [Draw(GREEDY), Draw(SamplingParams(seed=2)), Draw(SamplingParams(seed=3, top_p=0.9))]

    assert native.sample(logits.numpy(), draws, range(3)) == native.sample(alone.numpy(), draws, range(3))
    assert native.logprobs(logits.numpy(), [0, 1, 36], [2] * 3) == native.logprobs(alone.numpy(), [0, 1, 36], [2] * 3)


def told(result: TokenLogprobs | None) -> TokenLogprobs:
    assert result is not None
    return result


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_log_probabilities_are_those_of_the_softmax(native: NativeSampler, vocab_size: int) -> None:
    logits = torch.randn(4, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 4
    reference = logits.double().log_softmax(dim=-1)
    token_ids = [vocab_size // 2, 0, vocab_size - 1, 0]

    results = native.logprobs(logits.numpy(), token_ids, [3, -1, 20, 0])

    assert results[1] is None
    for row, count in ((0, 3), (2, 20), (3, 0)):
        result = told(results[row])
        best = reference[row].argsort(descending=True)[:count].tolist()
        assert result.token_id == token_ids[row]
        assert result.logprob == pytest.approx(float(reference[row, token_ids[row]]), abs=4e-6)
        assert [token_id for token_id, _ in result.top] == best
        assert [value for _, value in result.top] == pytest.approx(reference[row, best].tolist(), abs=4e-6)


def test_equally_likely_tokens_are_told_by_id(native: NativeSampler) -> None:
    logits = torch.zeros(1, 500)
    logits[0, 300] = 1.0

    result = told(native.logprobs(logits.numpy(), [0], [4])[0])

    assert [token_id for token_id, _ in result.top] == [300, 0, 1, 2]


def test_log_probabilities_of_what_is_no_number(native: NativeSampler) -> None:
    logits = torch.full((3, 20), torch.nan)
    logits[1, 4:6] = torch.inf
    logits[2, :] = -torch.inf
    logits[2, 3] = 9.0

    nothing, infinite, one = (told(result) for result in native.logprobs(logits.numpy(), [2, 4, 3], [2, 3, 1]))

    assert nothing == TokenLogprobs(2, -math.inf, ((0, -math.inf), (1, -math.inf)))
    assert infinite.logprob == pytest.approx(math.log(0.5))
    assert [token_id for token_id, _ in infinite.top] == [4, 5, 0]
    assert one == TokenLogprobs(3, 0.0, ((3, 0.0),))


def test_nothing_asked_nothing_computed(native: NativeSampler) -> None:
    logits = torch.zeros(2, 10)

    assert native.logprobs(logits.numpy(), [-5, 99], [-1, -1]) == [None, None]
    assert native.sample(logits[:0].numpy(), [], []) == []


@pytest.mark.parametrize(
    "draw",
    [
        Draw(GREEDY, banned=(10,)),
        Draw(SamplingParams(logit_bias=((-1, 1.0),))),
        Draw(SamplingParams(presence_penalty=1.0), output_token_ids=(3, 1 << 30)),
        Draw(SamplingParams(repetition_penalty=2.0), prompt_token_ids=(10,)),
    ],
    ids=str,
)
def test_a_draw_that_names_what_does_not_exist_is_refused(native: NativeSampler, draw: Draw) -> None:
    with pytest.raises(Internal, match="does not exist"):
        native.sample(torch.zeros(2, 10).numpy(), [Draw(GREEDY), draw], [0, 1])


def test_a_target_that_does_not_exist_is_refused(native: NativeSampler) -> None:
    with pytest.raises(Internal, match="does not exist"):
        native.logprobs(torch.zeros(1, 10).numpy(), [10], [0])
