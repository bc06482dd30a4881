"""Gumbel noise for (seed, position, token id), in plain floats: what a draw is decided by, to the last bit.

A library's logarithm differs in its last bit from machine to machine; this one is a fixed sequence of additions,
multiplications and divisions, which IEEE 754 rounds alike everywhere. native/noise.h repeats it in C++. Knows no torch.
"""

from __future__ import annotations

import math

from predictor.llm.splitmix import GOLDEN, WORD, mix

_SQRT_HALF = 0.7071067811865476
_LN_2 = 0.6931471805599453
_INVERSES = tuple(1.0 / k for k in range(23, 0, -2))


def noise_stream(seed: int, position: int) -> int:
    """Where the noise of (seed, position) starts; 64 bits. A negative seed is its own two's complement."""
    return mix((mix((seed + GOLDEN) & WORD) + (position + 1) * GOLDEN) & WORD)


def gumbel_noise(stream: int, token_id: int) -> float:
    """-ln(-ln u), with u from the upper 52 bits of the token's word and a half: never 0, never 1; -3.7 to 36.8."""
    word = mix((stream + token_id * GOLDEN) & WORD)
    return -logarithm(-logarithm(((word >> 12) + 0.5) * 2.0**-52))


def logarithm(x: float) -> float:
    """ln x for a normal x > 0, to a few units in the last place: twice the area tangent of (m - 1) / (m + 1)."""
    mantissa, exponent = math.frexp(x)
    if mantissa < _SQRT_HALF:
        mantissa, exponent = 2 * mantissa, exponent - 1
    s = (mantissa - 1) / (mantissa + 1)
    square, series = s * s, 0.0
    for inverse in _INVERSES:
        series = series * square + inverse
    return exponent * _LN_2 + 2 * s * series
