"""Chooses next tokens from logits: greedy, or drawn at a temperature from what top-k, top-p and min-p leave.

The noise of a draw is a hash of (seed, position, token id), with no generator and no state: a sequence that is
preempted, batched with others or continued on another replica draws the same tokens. The draw is an exponential race
("Gumbel-max", Maddison et al., 2014), in which the noise of one token does not move when another one is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from predictor.llm.logit_adjustments import adjust
from predictor.llm.splitmix import GOLDEN, MIX_1, MIX_2, WORD, mix
from predictor.llm.step import Draw, SamplingParams, TokenLogprobs

# Letters: R rows (one per sequence), V vocabulary.

# Top-p ranks so many of the likeliest tokens first, and more only when they do not suffice.
_FIRST_CANDIDATES = 256


def sample(logits: Tensor, draws: Sequence[Draw], positions: Sequence[int]) -> list[int]:
    """One token id per row of logits (float32 [R, V]); `positions` are those that the new tokens will have.

    Bias, penalties, bans and guides come first; then, as in `transformers`, temperature, top-k, top-p, min-p. Tokens as
    likely as the last one kept are kept as well, so that the outcome does not hang on how ties are sorted.
    """
    token_ids: list[int] = logits.argmax(dim=-1).tolist()
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
    # The likeliest token moves to 0 first: then no temperature, however small, can overflow.
    scaled = (logits - logits.max()).double().div_(params.temperature)
    stream = _stream(params.seed, position)
    threshold = _threshold(scaled, params)
    if threshold == -math.inf:
        everything = torch.arange(len(scaled), device=scaled.device)
        return int(scaled.add_(_gumbel_noise(stream, everything)).argmax())
    token_ids = (scaled >= threshold).nonzero().squeeze(1)
    winner = (scaled[token_ids] + _gumbel_noise(stream, token_ids)).argmax()
    return int(token_ids[winner])


def _threshold(scaled: Tensor, params: SamplingParams) -> float:
    """The scaled logit of the least likely token that a row [V] keeps: every truncation is such a threshold."""
    min_p_threshold = math.log(params.min_p) if params.min_p > 0 else -math.inf
    return max(min_p_threshold, _rank_threshold(scaled, params))


def _rank_threshold(scaled: Tensor, params: SamplingParams) -> float:
    """The threshold that top-k, then top-p set."""
    vocab_size = scaled.shape[0]
    top_k = min(params.top_k or vocab_size, vocab_size)
    if params.top_p >= 1:
        return -math.inf if top_k == vocab_size else float(scaled.topk(top_k).values[-1])
    num_ranked = min(_FIRST_CANDIDATES, vocab_size) if top_k == vocab_size else top_k
    ranked = scaled.topk(num_ranked).values
    total = scaled.exp().sum() if top_k == vocab_size else ranked.exp().sum()
    wanted = params.top_p * total
    while ranked.exp().sum() < wanted and num_ranked < top_k:
        num_ranked = min(16 * num_ranked, vocab_size)
        ranked = scaled.topk(num_ranked).values
    num_kept = int((ranked.exp().cumsum(0) < wanted).sum()) + 1
    return float(ranked[min(num_kept, num_ranked) - 1])


def _stream(seed: int, position: int) -> int:
    """Where the noise of (seed, position) starts, as a signed 64-bit integer."""
    word = mix((seed + GOLDEN) & WORD)
    return _signed(mix((word + (position + 1) * GOLDEN) & WORD))


def _gumbel_noise(stream: int, token_ids: Tensor) -> Tensor:
    """Gumbel noise, float64, for each token id (int64) of a stream: `mix` of the two, with int64 tensors."""
    word = (token_ids * _signed(GOLDEN)).add_(stream)
    # torch has no unsigned 64-bit arithmetic: products wrap alike, and shifts are masked so that they bring in zeros.
    word.bitwise_xor_((word >> 30).bitwise_and_((1 << 34) - 1)).mul_(_signed(MIX_1))
    word.bitwise_xor_((word >> 27).bitwise_and_((1 << 37) - 1)).mul_(_signed(MIX_2))
    word.bitwise_xor_((word >> 31).bitwise_and_((1 << 33) - 1))
    # 52 bits and a half: never 0, never 1.
    uniform = (word >> 12).bitwise_and_((1 << 52) - 1).double().add_(0.5).mul_(2.0**-52)
    return uniform.log_().neg_().log_().neg_()


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word
