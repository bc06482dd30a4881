// Chooses the next token of each row, and tells log-probabilities: predictor/llm/sampler.py in C++, a row a task.
//
// A draw is the race of `below / temperature + Gumbel noise` over all tokens that are kept, decided in float64. Nearly
// all tokens can be passed over: a token's noise exceeds a value x only if 1 - u < e^-x, and of 1 - u the logarithm is
// known to 0.09 from its bits alone, without computing it. What a token is drawn depends on its row and its draw alone.
#pragma once

#include "adjustments.h"
#include "noise.h"
#include "status.h"
#include "threads.h"
#include "truncation.h"

// How a row is to be drawn; sampler.py of this folder packs it. A temperature of 0 takes the likeliest.
struct RowDraw {
    double temperature, top_p;
    uint64_t seed;
    int64_t position;
    int32_t top_k;
    float inverse_temperature, min_p_threshold;  // of `below`
    const Adjustments* adjustments;              // null when nothing changes the row
};
static_assert(sizeof(RowDraw) == 56);

// A float's bits over 2^23 are its binary logarithm plus 127, less up to 0.09; complement_words count from 2^-32, and
// lose a bit on their way to signed integers.
constexpr float BITS_BIAS = 127 + 31;
// 1 - u is at least 2^-53: below this, no noise suffices.
constexpr float LEAST_REACH = BITS_BIAS - 53;
// What float32 may lose on the way, several times over.
constexpr float MARGIN = 0.0625f;

// The token that wins among those at `threshold` or above.
static int race(const LogitRow& row, const RowDraw& draw, float threshold) {
    constexpr float BITS_PER_NAT = 1.44269504f;
    uint64_t stream = noise_stream(draw.seed, draw.position);
    auto result_of = [&](int id) { return (double)row.below(id) / draw.temperature + gumbel(stream, id); };
    int winner = row.likeliest();
    double best = result_of(winner);
    float slope = fminf(BITS_PER_NAT * draw.inverse_temperature, 1e30f);
    float start = BITS_BIAS + MARGIN - (float)best * BITS_PER_NAT;
    row.for_each(threshold, [&](int first, f32x16 below) {
        f32x16 reach = below * slope + start;
        if (!lanes_of((below >= threshold) & (reach > LEAST_REACH))) return;
        f32x16 complements = to_float((i32x16)(complement_words(stream, first) >> 1));
        f32x16 logarithms = to_float((i32x16)complements) * 0x1p-23f;
        uint32_t lanes = lanes_of((below >= threshold) & (logarithms < reach));
        for (; lanes; lanes &= lanes - 1) {
            int id = first + __builtin_ctz(lanes);
            double result = result_of(id);
            if (result < best || (result == best && id >= winner)) continue;
            best = result;
            winner = id;
            start = BITS_BIAS + MARGIN - (float)best * BITS_PER_NAT;
        }
    });
    return winner;
}

// The winner among those that top-k, top-p and min-p keep.
static int draw_from(const LogitRow& row, const RowDraw& draw) {
    static thread_local Candidates candidates;
    bool has_top_k = draw.top_k > 0 && draw.top_k < row.size();
    float threshold = draw.min_p_threshold, inverse = draw.inverse_temperature;
    if (has_top_k && draw.top_p < 1) {
        threshold = fmaxf(threshold, top_p_threshold_of_top_k(row, draw.top_p, draw.top_k, inverse, candidates));
    } else if (has_top_k) {
        threshold = fmaxf(threshold, top_k_threshold(row, draw.top_k, candidates));
    } else if (draw.top_p < 1) {
        // Who wins against all wins against fewer: where the nucleus ends matters only when it ends before the winner.
        int winner = race(row, draw, threshold);
        double total = total_weight(row, inverse);
        if (weight_above(row, row.below(winner), inverse) < draw.top_p * total) return winner;
        threshold = fmaxf(threshold, top_p_threshold(row, draw.top_p, total, inverse, candidates));
    }
    return race(row, draw, threshold);
}

static int choose(const float* logits, int size, const RowDraw& draw) {
    static thread_local std::vector<float> adjusted, block_largest;
    if (draw.adjustments) {
        adjusted.assign(logits, logits + size);
        adjust(*draw.adjustments, adjusted.data(), size);
        logits = adjusted.data();
    }
    LogitRow row(logits, size, block_largest);
    if (draw.temperature <= 0 || row.largest() == -INFINITY) return row.likeliest();
    return draw_from(row, draw);
}

// The `count` likeliest tokens, best first, equals by id; and how far below the likeliest each is.
static void likeliest(const LogitRow& row, int count, int32_t* ids, float* below_of) {
    static thread_local std::vector<std::pair<float, int32_t>> found;  // minus below, id
    if (count <= 0) return;
    float bound = row.bound_of(count);
    found.clear();
    row.for_each(bound, [&](int first, f32x16 below) {
        // Without a bound all of them, so that NaNs too can be told.
        uint32_t lanes = bound == -INFINITY ? (1u << LANES) - 1 : lanes_of(below >= bound);
        for (; lanes; lanes &= lanes - 1) {
            int id = first + __builtin_ctz(lanes);
            if (id < row.size()) found.push_back({-row.below(id), id});
        }
    });
    std::partial_sort(found.begin(), found.begin() + count, found.end());
    for (int i = 0; i < count; i++) {
        ids[i] = found[i].second;
        below_of[i] = -found[i].first;
    }
}

extern "C" {

ThreadTeam* native_new_team(int32_t num_threads) { return new (std::nothrow) ThreadTeam(num_threads); }

void native_free_team(ThreadTeam* team) { delete team; }

// One token id for each row; `stride` floats from row to row.
int32_t native_sample(ThreadTeam* team, const float* logits, int32_t num_rows, int32_t size, int64_t stride,
                      const RowDraw* draws, int32_t* token_ids) {
    for (int row = 0; row < num_rows; row++)
        if (draws[row].adjustments && !draws[row].adjustments->is_in_range(size)) return OUT_OF_RANGE;
    try {
        team->parallel(num_rows, [&](int row) { token_ids[row] = choose(logits + row * stride, size, draws[row]); });
    } catch (...) {
        return NO_MEMORY;
    }
    return OK;
}

// For each row the log-probability of its target, and of its num_top likeliest: `top_ids` and `top` have max_top a row.
// A row with num_top -1 is passed over.
int32_t native_logprobs(ThreadTeam* team, const float* logits, int32_t num_rows, int32_t size, int64_t stride,
                        const int32_t* targets, const int32_t* num_top, int32_t max_top, float* chosen,
                        int32_t* top_ids, float* top) {
    for (int row = 0; row < num_rows; row++)
        if (targets[row] < 0 || targets[row] >= size || num_top[row] > size) return OUT_OF_RANGE;
    try {
        team->parallel(num_rows, [&](int i) {
            static thread_local std::vector<float> block_largest;
            if (num_top[i] < 0) return;
            LogitRow row(logits + i * stride, size, block_largest);
            // Where nothing can be chosen nothing is likely.
            double normalizer = row.largest() == -INFINITY ? INFINITY : logarithm(total_weight(row, 1.0f));
            float* row_top = top + (size_t)i * max_top;
            likeliest(row, num_top[i], top_ids + (size_t)i * max_top, row_top);
            for (int j = 0; j < num_top[i]; j++) row_top[j] = (float)(row_top[j] - normalizer);
            chosen[i] = (float)(row.below(targets[i]) - normalizer);
        });
    } catch (...) {
        return NO_MEMORY;
    }
    return OK;
}

// What the twin in Python is held against.

void native_gumbel(uint64_t seed, int64_t position, int32_t num_tokens, double* out) {
    for (int i = 0; i < num_tokens; i++) out[i] = gumbel(noise_stream(seed, position), i);
}

// Of a multiple of sixteen values.
void native_weights(const float* x, int32_t size, float* out) {
    for (int i = 0; i < size; i += LANES) store(out + i, weights_of(load<f32x16>(x + i)));
}

}  // extern "C"
