// Top-k and top-p: how far `below` the likeliest the last token is that a row keeps. Every truncation is such a threshold.
//
// Probabilities are weights e^(below / temperature), rounded to multiples of 2^-34. So sums of up to 2^19 of them are
// exact in float64 in any order, and neither a vector's width nor the twin in sampler.py can move the end of a nucleus.
#pragma once

#include "logit_row.h"

// e^x, x <= 0, as a multiple of 2^-34; 1 at 0 exactly, 0 for NaN. Cephes' expf (Moshier) without fused operations, which
// not every CPU has: sampler.py repeats it.
static inline f32x16 weights_of(f32x16 x) {
    x = maximum(x, splat(-87.0f));
    i32x16 exponent = to_nearest(x * 1.44269504088896341f);
    f32x16 n = to_float(exponent);
    f32x16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
    f32x16 p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    f32x16 weight = (f32x16)((i32x16)p + (exponent << 23));  // times 2^n
    // Where floats are finer than 2^-34, adding 2^-11 rounds them to it.
    return weight < 0x1p-11f ? (weight + 0x1p-11f) - 0x1p-11f : weight;
}

// What the tokens above `floor` weigh together.
static double weight_above(const LogitRow& row, float floor, float inverse_temperature) {
    typedef double f64x8 __attribute__((vector_size(64)));
    f64x8 sums[2] = {};
    row.for_each(floor, [&](int, f32x16 below) {
        f32x16 w = weights_of(below * inverse_temperature);
        w = below > floor ? w : f32x16{};
        sums[0] += __builtin_convertvector(__builtin_shufflevector(w, w, 0, 1, 2, 3, 4, 5, 6, 7), f64x8);
        sums[1] += __builtin_convertvector(__builtin_shufflevector(w, w, 8, 9, 10, 11, 12, 13, 14, 15), f64x8);
    });
    double total = 0;
    for (int i = 0; i < 8; i++) total += sums[0][i] + sums[1][i];
    return total;
}

// What all weigh together. Below e^-25 a weight is 0.
static double total_weight(const LogitRow& row, float inverse_temperature) {
    return weight_above(row, -25.0f / inverse_temperature, inverse_temperature);
}

// The tokens of a row from a threshold on, in no order: `keys` grow from the likeliest on, and are equal where `below` is.
struct Candidates {
    std::vector<uint32_t> keys;
    std::vector<float> weights;
    int count = 0;

    // Without an inverse temperature each weighs 1, so that weights count tokens.
    void collect(const LogitRow& row, float threshold, const float* inverse_temperature) {
        if (keys.size() < (size_t)row.size() + LANES) {
            keys.resize(row.size() + LANES);
            weights.resize(row.size() + LANES);
        }
        count = 0;
        row.for_each(threshold, [&](int, f32x16 below) {
            uint32_t lanes = lanes_of(below >= threshold);
            if (!lanes) return;
            uint32_t key[LANES];
            float weight[LANES];
            store(key, (u32x16)below & 0x7fffffffu);
            store(weight, inverse_temperature ? weights_of(below * *inverse_temperature) : splat(1.0f));
            for (; lanes; lanes &= lanes - 1, count++) {
                int lane = __builtin_ctz(lanes);
                keys[count] = key[lane];
                weights[count] = weight[lane];
            }
        });
    }

    // The weight of the `number` likeliest, the last of which has key `last`.
    double total_of(int number, uint32_t last) const {
        double total = 0;
        float weight_of_last = 0;
        for (int i = 0; i < count; i++) {
            if (keys[i] < last) {
                total += weights[i];
                number--;
            } else if (keys[i] == last) {
                weight_of_last = weights[i];
            }
        }
        return total + number * (double)weight_of_last;
    }

    // The least key such that all up to it weigh at least `wanted`; by radix, without sorting. Loses the candidates.
    uint32_t select(double wanted) {
        static thread_local double sums[1 << 11];
        double before = 0;
        uint32_t key = 0;
        for (int shift : {21, 10, 0}) {
            uint32_t buckets = shift == 10 ? 1 << 11 : 1 << 10, bucket = 0;
            memset(sums, 0, buckets * sizeof *sums);
            for (int i = 0; i < count; i++) sums[keys[i] >> shift & (buckets - 1)] += weights[i];
            while (bucket < buckets - 1 && before + sums[bucket] < wanted) before += sums[bucket++];
            key |= bucket << shift;
            int kept = 0;
            for (int i = 0; i < count; i++) {
                keys[kept] = keys[i];
                weights[kept] = weights[i];
                kept += (keys[i] >> shift & (buckets - 1)) == bucket;
            }
            count = kept;
        }
        return key;
    }
};

static inline uint32_t key_of(float below) {
    uint32_t key;
    memcpy(&key, &below, sizeof key);
    return key & 0x7fffffffu;
}
static inline float threshold_of(uint32_t key) {
    float below;
    memcpy(&below, &key, sizeof below);
    return -below;
}

// Of the `top_k` likeliest tokens. Those as likely as the last of them reach it as well.
static float top_k_threshold(const LogitRow& row, int top_k, Candidates& candidates) {
    candidates.collect(row, row.bound_of(top_k), nullptr);
    return candidates.count < top_k ? -INFINITY : threshold_of(candidates.select(top_k));
}

// Of the smallest set of likeliest tokens that weighs at least top_p of all; `total` is what all weigh.
static float top_p_threshold(const LogitRow& row, double top_p, double total, float inverse_temperature,
                             Candidates& candidates) {
    // What is dropped weighs (1 - top_p) total and is less than a vocabulary, so that the last token that is kept has at
    // least the mean weight. Half of that is safe from rounding.
    float bound = (float)(log(0.5 * (1 - top_p) * total / row.size()) / inverse_temperature);
    candidates.collect(row, bound, &inverse_temperature);
    return threshold_of(candidates.select(top_p * total));
}

// The same, where the k likeliest are all there is.
static float top_p_threshold_of_top_k(const LogitRow& row, double top_p, int top_k, float inverse_temperature,
                                      Candidates& candidates) {
    float threshold = top_k_threshold(row, top_k, candidates);
    candidates.collect(row, threshold, &inverse_temperature);
    return threshold_of(candidates.select(top_p * candidates.total_of(top_k, key_of(threshold))));
}
