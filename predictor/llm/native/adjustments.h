// What changes the logits of a row before a token is chosen: predictor/llm/logit_adjustments.py in C++, the same float32
// operations in the same order.
#pragma once

#include "logit_row.h"

// All ids are below the size of the row. `allowed`: a bitmap, bit i % 8 of byte i // 8 for token i; what lies beyond it is
// not allowed. -1 bytes: all are.
struct Adjustments {
    float repetition_penalty, frequency_penalty, presence_penalty;
    int32_t num_biases, num_prompt, num_output, num_banned, num_allowed_bytes;
    const int32_t* biased;
    const float* biases;
    const int32_t* prompt;
    const int32_t* output;
    const int32_t* banned;
    const uint8_t* allowed;

    bool is_in_range(int size) const {
        auto all_below = [size](const int32_t* ids, int count) {
            return std::all_of(ids, ids + count, [size](int32_t id) { return id >= 0 && id < size; });
        };
        return all_below(biased, num_biases) && all_below(prompt, num_prompt) && all_below(output, num_output) &&
               all_below(banned, num_banned);
    }
};

static void penalize(const Adjustments& a, float* row, int size) {
    static thread_local std::vector<int32_t> counts;  // zeros between calls
    if (counts.size() < (size_t)size) counts.resize(size);
    auto each_once = [&](const int32_t* ids, int count, auto f) {
        for (int i = 0; i < count; i++)
            if (counts[ids[i]]) f(row[ids[i]], counts[ids[i]]), counts[ids[i]] = 0;
    };
    auto repeat = [&](float& x, int) { x = x > 0 ? x / a.repetition_penalty : x * a.repetition_penalty; };
    if (a.repetition_penalty != 1.0f) {
        for (int i = 0; i < a.num_prompt; i++) counts[a.prompt[i]] = 1;
        for (int i = 0; i < a.num_output; i++) counts[a.output[i]] = 1;
        each_once(a.prompt, a.num_prompt, repeat);
        each_once(a.output, a.num_output, repeat);
    }
    for (int i = 0; i < a.num_output; i++) counts[a.output[i]]++;
    each_once(a.output, a.num_output,
              [&](float& x, int count) { x -= (float)count * a.frequency_penalty + a.presence_penalty; });
}

static void mask(const Adjustments& a, float* row, int size) {
    constexpr i32x16 LANE_BITS = i32x16{1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}
                                 << i32x16{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    int num_whole = std::min(size / LANES, a.num_allowed_bytes / 2) * LANES;
    for (int i = 0; i < num_whole; i += LANES) {
        i32x16 bits = splat((int32_t)(a.allowed[i / 8] | a.allowed[i / 8 + 1] << 8));
        f32x16 v = load<f32x16>(row + i);
        store(row + i, (bits & LANE_BITS) != 0 ? v : splat(-INFINITY));
    }
    for (int i = num_whole; i < size; i++)
        if (i / 8 >= a.num_allowed_bytes || !(a.allowed[i / 8] >> i % 8 & 1)) row[i] = -INFINITY;
}

// When every token that is left is banned, the bans give way.
static void ban(const Adjustments& a, float* row, int size) {
    std::vector<float> before(a.num_banned);
    for (int i = 0; i < a.num_banned; i++) {
        before[i] = row[a.banned[i]];
        row[a.banned[i]] = -INFINITY;
    }
    if (std::any_of(row, row + size, [](float x) { return x > -INFINITY; })) return;
    for (int i = a.num_banned - 1; i >= 0; i--) row[a.banned[i]] = before[i];
}

// Changes `row` in place.
static void adjust(const Adjustments& a, float* row, int size) {
    for (int i = 0; i < a.num_biases; i++) row[a.biased[i]] += a.biases[i];
    penalize(a, row, size);
    if (a.num_allowed_bytes >= 0) mask(a, row, size);
    if (a.num_banned) ban(a, row, size);
}
