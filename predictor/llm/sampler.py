"""Chooses next tokens from logits: greedy, or drawn at a temperature from what top-k, top-p and min-p leave.

The noise of a draw is a hash of (seed, position, token id), with no generator and no state: a sequence that is
preempted, batched with others or continued on another replica draws the same tokens. The draw is an exponential race
("Gumbel-max", Maddison et al., 2014), in which the noise of one token does not move when another one is dropped.

With PyTorch. `native.sampler` chooses the same tokens with the compiled kernels: what a choice depends on is computed
so that no library, vector width or order of a sum can move it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from predictor.llm.gumbel import gumbel_noise, noise_stream
from predictor.llm.logit_adjustments import adjust
from predictor.llm.splitmix import GOLDEN, MIX_1, MIX_2
from predictor.llm.step import Draw, SamplingParams, TokenLogprobs
from predictor.llm.temperature import inverse_temperature, min_p_threshold

# Letters: R rows (one per sequence), V vocabulary.

# Top-p ranks so many of the likeliest tokens first, and more only when they do not suffice.
_FIRST_CANDIDATES = 256
# Results of a race that lie nearer than this are computed again, exactly: torch's logarithms are far better.
_CLOSE = 1e-6
# Floats of this size have no digits behind the point. torch.round would wake a second thread for a few thousand values.
_ROUNDS_TO_WHOLE = 1.5 * 2**23
_WEIGHT_TERMS = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def sample(logits: Tensor, draws: Sequence[Draw], positions: Sequence[int]) -> list[int]:
    """One token id per row of logits (float32 [R, V]); `positions` are those that the new tokens will have.

    Bias, penalties, bans and guides come first; then, as in `transformers`, temperature, top-k, top-p, min-p. Tokens as
    likely as the last one kept are kept as well, so that the outcome does not hang on how ties are sorted. Of equals
    the first is taken. A NaN counts as -inf, and where nothing else is left the answer is token 0.
    """
    likeliest = logits.argmax(dim=-1)
    if bool(logits.gather(1, likeliest.unsqueeze(1)).isnan().any()):  # torch ranks NaN above all
        logits = logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        likeliest = logits.argmax(dim=-1)
    token_ids: list[int] = likeliest.tolist()
    # Row by row: one row's temporaries stay in the cache, and a row cannot feel its neighbours.
    for row, (draw, position) in enumerate(zip(draws, positions, strict=True)):
        plain = logits[row]
        adjusted = adjust(plain, draw)
        if draw.params.temperature > 0:
            token_ids[row] = _draw(adjusted, draw.params, position)
        elif adjusted is not plain:
            token_ids[row] = int(adjusted.argmax())
    return token_ids


def logprobs(logits: Tensor, token_ids: Sequence[int], num_top: Sequence[int]) -> list[TokenLogprobs | None]:
    """Log-probabilities of one token per row and of the row's likeliest, from the raw logits (float32 [R, V]).

    num_top: how many of the likeliest each row wants; -1 for a row that wants nothing at all.
    """
    results: list[TokenLogprobs | None] = [None] * len(token_ids)
    wanted = [row for row, count in enumerate(num_top) if count >= 0]
    if not wanted:
        return results
    rows = logits if len(wanted) == len(token_ids) else logits[wanted]
    # Row by row: torch cuts a reduction by the number of rows, and a row's bits would depend on its neighbours.
    normalizers = torch.stack([row.logsumexp(dim=0) for row in rows])
    targets = torch.tensor([token_ids[row] for row in wanted], device=logits.device)
    chosen = (rows.gather(1, targets.unsqueeze(1)).squeeze(1) - normalizers).tolist()
    top = rows.topk(min(max(num_top), logits.shape[1]), dim=-1)
    top_ids, top_logprobs = top.indices.tolist(), (top.values - normalizers.unsqueeze(1)).tolist()
    for i, row in enumerate(wanted):
        likeliest = zip(top_ids[i][: num_top[row]], top_logprobs[i][: num_top[row]], strict=True)
        results[row] = TokenLogprobs(token_ids[row], chosen[i], tuple(likeliest))
    return results


def _draw(logits: Tensor, params: SamplingParams, position: int) -> int:
    largest = logits.max()
    if largest == -torch.inf:
        return 0
    # The likeliest token moves to 0 first: then no temperature, however small, can overflow.
    below = logits - largest
    if largest == torch.inf:
        below.nan_to_num_(nan=0.0, neginf=-torch.inf)  # equal infinities have no difference
    threshold = _threshold(below, params)
    if threshold == -math.inf:
        return _race(below, torch.arange(len(below), device=below.device), params, position)
    token_ids = (below >= threshold).nonzero().squeeze(1)
    return _race(below[token_ids], token_ids, params, position)


def _race(below: Tensor, token_ids: Tensor, params: SamplingParams, position: int) -> int:
    """The winner among `token_ids`, whose logits lie `below` the likeliest."""
    stream = noise_stream(params.seed, position)
    results = below.double().div_(params.temperature).add_(_gumbel_noise(stream, token_ids))
    close = (results >= results.max() - _CLOSE).nonzero().squeeze(1)
    contenders: list[int] = token_ids[close].tolist()
    if len(contenders) == 1:
        return contenders[0]
    exact = {
        token_id: value / params.temperature + gumbel_noise(stream, token_id)
        for token_id, value in zip(contenders, below[close].tolist(), strict=True)
    }
    return max(contenders, key=exact.__getitem__)


def _threshold(below: Tensor, params: SamplingParams) -> float:
    """How far `below` the likeliest the last token is that a row [V] keeps: every truncation is such a threshold."""
    # In float32, as everything that is compared with it.
    min_p = float(torch.tensor(min_p_threshold(params), dtype=torch.float32)) if params.min_p > 0 else -math.inf
    return max(min_p, _rank_threshold(below, params))


def _rank_threshold(below: Tensor, params: SamplingParams) -> float:
    """The threshold that top-k, then top-p set."""
    has_top_k = 0 < params.top_k < len(below)
    if has_top_k:
        below = below.topk(params.top_k).values
    if params.top_p < 1:
        return _nucleus_threshold(below, params)
    return float(below[-1]) if has_top_k else -math.inf


def _nucleus_threshold(below: Tensor, params: SamplingParams) -> float:
    """The threshold that top-p sets where `below` (in any order) is all there is."""
    weights = _weights(below, inverse_temperature(params))
    wanted = params.top_p * weights.sum()
    num_ranked = min(_FIRST_CANDIDATES, len(below))
    ranked = below.topk(num_ranked)
    while weights.gather(0, ranked.indices).sum() < wanted:
        num_ranked = min(16 * num_ranked, len(below))
        ranked = below.topk(num_ranked)
    num_less = int((weights.gather(0, ranked.indices).cumsum(0) < wanted).sum())
    return float(ranked.values[num_less])


def _weights(below: Tensor, inverse: float) -> Tensor:
    """e^(below * inverse) as float64 multiples of 2^-34, whose sums are exact in any order; 1 at 0.

    Cephes' expf (Moshier) in float32, with one rounding an operation: truncation.h repeats it.
    """
    x = (below * inverse).clamp_min_(-87.0)
    n = (x * 1.44269504088896341 + _ROUNDS_TO_WHOLE) - _ROUNDS_TO_WHOLE
    r = (x - n * 0.693359375) + n * 2.12194440e-4
    p = torch.full_like(r, _WEIGHT_TERMS[0])
    for term in _WEIGHT_TERMS[1:]:
        p = (p * r) + term
    p = (p * (r * r)) + r + 1.0
    weights = p * ((n.int() + 127) << 23).view(torch.float32)
    # Where floats are finer than 2^-34, adding 2^-11 rounds them to it.
    return torch.where(weights < 2.0**-11, (weights + 2.0**-11) - 2.0**-11, weights).double()


def _gumbel_noise(stream: int, token_ids: Tensor) -> Tensor:
    """`gumbel.gumbel_noise` of each token id (int64) but for the last bits; float64."""
    word = (token_ids * _signed(GOLDEN)).add_(_signed(stream))
    # torch has no unsigned 64-bit arithmetic: products wrap alike, and shifts are masked so that they bring in zeros.
    word.bitwise_xor_((word >> 30).bitwise_and_((1 << 34) - 1)).mul_(_signed(MIX_1))
    word.bitwise_xor_((word >> 27).bitwise_and_((1 << 37) - 1)).mul_(_signed(MIX_2))
    word.bitwise_xor_((word >> 31).bitwise_and_((1 << 33) - 1))
    # 52 bits and a half: never 0, never 1.
    uniform = (word >> 12).bitwise_and_((1 << 52) - 1).double().add_(0.5).mul_(2.0**-52)
    return uniform.log_().neg_().log_().neg_()


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
