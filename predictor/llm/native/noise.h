// Gumbel noise for (seed, position, token id): predictor/llm/gumbel.py in C++, with the same operations in the same
// order, so that both give the same bits. Steele et al., 2014 (SplitMix64); Maddison et al., 2014 (the race).
#pragma once

#include "simd.h"

typedef uint64_t u64x8 __attribute__((vector_size(64)));

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15, MIX_1 = 0xBF58476D1CE4E5B9, MIX_2 = 0x94D049BB133111EB;

// Word: uint64_t, or a vector of them.
template <typename Word>
static inline Word mix(Word word) {
    word = (word ^ word >> 30) * MIX_1;
    word = (word ^ word >> 27) * MIX_2;
    return word ^ word >> 31;
}

// Where the noise of (seed, position) starts.
static inline uint64_t noise_stream(uint64_t seed, int64_t position) {
    return mix(mix(seed + GOLDEN) + ((uint64_t)position + 1) * GOLDEN);
}

// ln x for a normal x > 0, to a few units in the last place. Twice the area tangent of (m - 1) / (m + 1), by its series;
// no library's function, which would differ from machine to machine.
static double logarithm(double x) {
    int exponent;
    double mantissa = frexp(x, &exponent);
    if (mantissa < 0.7071067811865476) {
        mantissa *= 2;
        exponent--;
    }
    double s = (mantissa - 1) / (mantissa + 1), square = s * s, series = 0;
    for (int k = 23; k > 0; k -= 2) series = series * square + 1.0 / k;
    return exponent * 0.6931471805599453 + 2 * s * series;
}

// -ln(-ln u), with u from the upper 52 bits of the token's word and a half: never 0, never 1.
static double gumbel(uint64_t stream, int token_id) {
    uint64_t word = mix(stream + (uint64_t)token_id * GOLDEN);
    return -logarithm(-logarithm(((double)(word >> 12) + 0.5) * 0x1p-52));
}

// Upper 32 bits of 2^64 - 1 less the word of token first, first + 1, …: 2^32 (1 - u), rounded down.
static inline u32x16 complement_words(uint64_t stream, int first) {
    constexpr u64x8 STEPS = u64x8{0, 1, 2, 3, 4, 5, 6, 7} * GOLDEN;
    u64x8 words = stream + (uint64_t)first * GOLDEN + STEPS;
    u32x16 low = (u32x16)~mix(words), high = (u32x16)~mix(words + 8 * GOLDEN);
    return __builtin_shufflevector(low, high, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
