// Keys and values as bfloat16. Everything is bfloat16 but the sums and the exponential: queries and weights are rounded
// to it, as keys and values are.
//
// A block holds, for each KV head, the keys as [head_dim / 2][slots][2] and the values as [pairs of slots][dims][2]. Keys
// lie transposed, so that a vector holds two dimensions of sixteen positions and the scores of sixteen positions come out
// without a sum over lanes.
#pragma once

#include "attention.h"

namespace kv_bfloat16 {

static inline size_t key_bytes(const CacheShape& shape) { return (size_t)shape.head_dim * shape.slots() * 2; }
static inline size_t head_bytes(const CacheShape& shape) {
    return key_bytes(shape) + (size_t)round_up(shape.block_size, 2) * shape.dims() * 2;
}
static inline size_t query_bytes(const CacheShape& shape) { return (size_t)shape.head_dim * 2; }

static inline void write_key_value(const CacheShape& shape, uint8_t* head, int slot, const float* key,
                                   const float* value) {
    uint16_t* keys = (uint16_t*)head + 2 * slot;
    uint16_t* values = (uint16_t*)(head + key_bytes(shape)) + (size_t)(slot / 2) * 2 * shape.dims() + slot % 2;
    for (int first = 0; first < shape.head_dim; first += LANES) {
        int count = shape.head_dim - first < LANES ? shape.head_dim - first : LANES;
        uint16_t k_lanes[LANES], v_lanes[LANES];
        store(k_lanes, to_bf16(load_part(key, first, shape.head_dim)));
        store(v_lanes, to_bf16(load_part(value, first, shape.head_dim)));
        for (int i = 0; i < count; i++) {
            int d = first + i;
            keys[(size_t)(d / 2) * 2 * shape.slots() + d % 2] = k_lanes[i];
            values[2 * d] = v_lanes[i];
        }
    }
}

// One query head, scaled and rounded; times log2(e) too, so that a weight is a power of two.
static inline void write_query(const CacheShape& shape, const float* query, float scale, uint8_t* out) {
    for (int first = 0; first < shape.head_dim; first += LANES) {
        int count = shape.head_dim - first < LANES ? shape.head_dim - first : LANES;
        f32x16 q = load_part(query, first, shape.head_dim);
        u16x16 rounded = to_bf16(q * (scale * LOG2_E));
        memcpy(out + 2 * first, &rounded, count * 2);
    }
}

// Scores of R rows with S segments of keys.
template <int R, int S>
static inline void score_segments(const AttentionTask& task, int segment, int end) {
    f32x16 sums[R][S] = {};
    const uint8_t* keys[S];
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
        SegmentPlace place(task, segment + s, end);
        keys[s] = task.head(place.block) + 4 * place.slot;
    }
    size_t step = (size_t)task.shape->slots() * 4;
    const uint8_t* queries = task.interleaved;
    for (int pair = 0; pair < task.shape->head_dim / 2; pair++, queries += 4 * R) {
        u32x16 k[S];
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) k[s] = load<u32x16>(keys[s] + pair * step);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            uint32_t q = load<uint32_t>(queries + 4 * r);
#pragma GCC unroll 4
            for (int s = 0; s < S; s++) sums[r][s] = dot2_bf16(sums[r][s], k[s], q);
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) store(task.scores + r * task.stride + (segment + s) * LANES, sums[r][s]);
}

// Scores of a row into weights, not yet divided by their sum; returns the sum. Slots that are not its own weigh 0. The
// weights are bfloat16 and take the first half of the memory of the scores.
static float weigh(const AttentionTask& task, int row) {
    float* scores = task.scores + row * task.stride;
    uint16_t* weights = (uint16_t*)scores;
    int keys = task.num_keys[row], end = task.num_segments(keys), all = task.num_segments(task.last_num_keys());
    f32x16 top = splat(mask_scores(task, scores, keys)), sum = {};
    task.for_each_segment(keys, [&](int segment, int, int, int valid) {
        // A segment's weights end before its scores begin, but for the first, which is read before it is written.
        f32x16 weight = softmax_weight(load<f32x16>(scores + segment * LANES) - top);
        if (valid < LANES) weight = LANE < valid ? weight : f32x16{};
        u16x16 rounded = to_bf16(weight);
        store(weights + segment * LANES, rounded);
        // The rounded weights, so that they add up to their sum.
        sum += from_bf16(__builtin_convertvector(rounded, u32x16));
    });
    for (int segment = end; segment < all; segment++) store(weights + segment * LANES, u16x16{});
    return sum_of(sum);
}

// Weighted sums of values for R rows from row `first`, for V vectors of dimensions from dimension `dim`.
template <int R, int V>
static inline void sum_values(const AttentionTask& task, const float* inverse_sums, int first, int dim) {
    const CacheShape& shape = *task.shape;
    f32x16 sums[R][V] = {};
    int keys = task.last_num_keys();
    for (int start = 0, block = 0; start < keys; start += shape.block_size, block++) {
        const uint16_t* values = (const uint16_t*)(task.head(block) + key_bytes(shape)) + 2 * dim;
        const float* weights = task.scores + first * task.stride + (size_t)block * shape.slots() / 2;
        int count = keys - start < shape.block_size ? keys - start : shape.block_size;
        auto add_pair = [&](int pair, uint32_t mask) {
            u32x16 v[V];
            for (int i = 0; i < V; i++)
                v[i] = load<u32x16>(values + (size_t)pair * 2 * shape.dims() + i * 2 * LANES) & mask;
            for (int r = 0; r < R; r++) {
                uint32_t weight = load<uint32_t>(weights + r * task.stride + pair);
                for (int i = 0; i < V; i++) sums[r][i] = dot2_bf16(sums[r][i], v[i], weight);
            }
        };
        for (int pair = 0; pair < count / 2; pair++) add_pair(pair, 0xffffffffu);
        // The second slot of an unfinished pair may hold anything, and only numbers times 0 are 0.
        if (count % 2) add_pair(count / 2, 0x0000ffffu);
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < V; i++) {
            f32x16 mean = sums[r][i] * inverse_sums[first + r];
            int at = dim + i * LANES, left = shape.head_dim - at;
            memcpy(task.outputs[first + r] + at, &mean, (left < LANES ? left : LANES) * sizeof(float));
        }
}

template <int R>
static void sum_dims(const AttentionTask& task, const float* inverse_sums, int first) {
    int dim = 0, dims = task.shape->dims();
    for (; dims - dim >= 4 * LANES; dim += 4 * LANES) sum_values<R, 4>(task, inverse_sums, first, dim);
    for (; dim < dims; dim += LANES) sum_values<R, 1>(task, inverse_sums, first, dim);
}

template <int R>
static void attend(const AttentionTask& task) {
    interleave_queries<uint32_t, R>(task, task.shape->head_dim / 2);
    // Few rows take several segments at once, so that their sums do not wait for each other.
    constexpr int S = R <= 3 ? 4 : R <= 6 ? 2 : 1;
    int segment = 0, end = task.num_segments(task.last_num_keys());
    for (; segment + S <= end; segment += S) score_segments<R, S>(task, segment, end);
    for (; segment < end; segment++) score_segments<R, 1>(task, segment, end);
    float inverse_sums[R];
    for (int r = 0; r < R; r++) inverse_sums[r] = 1.0f / weigh(task, r);
    // Six rows by four vectors of sums fill the registers.
    constexpr int SIX = R < 6 ? R : 6;
    sum_dims<SIX>(task, inverse_sums, 0);
    if constexpr (R > 6) sum_dims<R - 6>(task, inverse_sums, 6);
}

}  // namespace kv_bfloat16
