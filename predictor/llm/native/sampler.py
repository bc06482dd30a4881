"""Sampling by the compiled kernels: the tokens that `predictor.llm.sampler` chooses, all rows of a step in one call.

Only a row with a bias, a penalty, a ban or a guide pays for them. The kernels: noise.h, logit_row.h, truncation.h,
adjustments.h, sampling.h.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from ctypes import Structure, addressof, c_float, c_int32, c_void_p
from struct import Struct

import numpy as np

from predictor.llm.native.library import FloatArray, NativeLibrary, address, pointer
from predictor.llm.splitmix import WORD
from predictor.llm.step import Draw, TokenLogprobs
from predictor.llm.temperature import inverse_temperature, min_p_threshold

# RowDraw of sampling.h.
_ROW_DRAW = Struct("=ddQqiff4xQ")


class NativeSampler:
    """Implements `readout.Sampler` for numpy's arrays. Not thread-safe: one engine loop calls it.

    team: threads that share the rows; a handle of `library`, borrowed.
    """

    def __init__(self, library: NativeLibrary, team: int) -> None:
        self._library = library
        self._team = team

    def sample(self, logits: FloatArray, draws: Sequence[Draw], positions: Sequence[int]) -> list[int]:
        """As `predictor.llm.sampler.sample`. Raises Internal for a draw with a token id that the row does not have."""
        adjustments = [_Adjustments(draw) if _is_adjusted(draw) else None for draw in draws]
        row_draws = b"".join(map(_pack, draws, positions, adjustments))
        token_ids = array("i", bytes(4 * len(draws)))
        self._library.sample(self._team, logits, row_draws, token_ids)
        return token_ids.tolist()

    def logprobs(
        self, logits: FloatArray, token_ids: Sequence[int], num_top: Sequence[int]
    ) -> list[TokenLogprobs | None]:
        """As `predictor.llm.sampler.logprobs`; equally likely tokens in the order of their ids."""
        if max(num_top, default=-1) < 0:
            return [None] * len(token_ids)
        num_rows, vocab_size = logits.shape
        counts = array("i", [min(count, vocab_size) for count in num_top])
        chosen = np.empty(num_rows, np.float32)
        top_ids = np.empty((num_rows, max(counts)), np.int32)
        top = np.empty(top_ids.shape, np.float32)
        self._library.logprobs(self._team, logits, array("i", token_ids), counts, chosen, top_ids, top)
        results: list[TokenLogprobs | None] = [None] * num_rows
        for row, count in enumerate(counts):
            if count >= 0:
                likeliest = zip(top_ids[row, :count].tolist(), top[row, :count].tolist(), strict=True)
                results[row] = TokenLogprobs(token_ids[row], float(chosen[row]), tuple(likeliest))
        return results


class _Adjustments(Structure):
    """Mirrors adjustments.h. Owns what its pointers point at, but for the bitmap, which is the draw's."""

    _fields_ = (
        *((name, c_float) for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")),
        *((f"num_{name}", c_int32) for name in ("biases", "prompt", "output", "banned", "allowed_bytes")),
        *((name, c_void_p) for name in ("biased", "biases", "prompt", "output", "banned", "allowed")),
    )

    def __init__(self, draw: Draw) -> None:
        params = draw.params
        biased = array("i", [token_id for token_id, _ in params.logit_bias])
        biases = array("f", [bias for _, bias in params.logit_bias])
        prompt, output = array("i", draw.prompt_token_ids), array("i", draw.output_token_ids)
        banned = array("i", draw.banned)
        self._arrays = (biased, biases, prompt, output, banned)
        super().__init__(
            params.repetition_penalty,
            params.frequency_penalty,
            params.presence_penalty,
            len(biases),
            len(prompt),
            len(output),
            len(banned),
            -1 if draw.allowed is None else len(draw.allowed),
            *(address(values) for values in self._arrays),
            None if draw.allowed is None else pointer(np.frombuffer(draw.allowed, np.uint8)),
        )


def _is_adjusted(draw: Draw) -> bool:
    return bool(draw.allowed is not None or draw.banned or draw.params.logit_bias or draw.params.has_penalties)


def _pack(draw: Draw, position: int, adjustments: _Adjustments | None) -> bytes:
    params = draw.params
    is_greedy = params.temperature <= 0
    return _ROW_DRAW.pack(
        params.temperature,
        params.top_p,
        params.seed & WORD,
        position,
        params.top_k,
        1.0 if is_greedy else inverse_temperature(params),
        min_p_threshold(params),
        addressof(adjustments) if adjustments is not None else 0,
    )
