// Keys and values as int8, one scale for each token and KV head: half the memory of bfloat16, and half the traffic, which
// is what a decode waits for. The other side of each product has more bits, in two digits of base 128: a query fifteen,
// with a scale of its own, and the weights of a row fourteen, relative to the largest. All sums of products are integers,
// which are exact in any order; 32 bits hold them for 133,000 positions.
//
// A block holds, for each KV head: keys [ceil(head_dim / 4)][slots][4], bytes that are 128 more than what they mean; then
// values [slots / 4][dims][4], signed; then the scales of the keys and those of the values, float32 [slots] each.
#pragma once

#include "attention.h"

namespace kv_int8 {

static inline int quads(const CacheShape& shape) { return ceil_div(shape.head_dim, 4); }
static inline size_t key_bytes(const CacheShape& shape) { return (size_t)quads(shape) * shape.slots() * 4; }
static inline size_t scales_offset(const CacheShape& shape) {
    return key_bytes(shape) + (size_t)shape.slots() * shape.dims();
}
static inline size_t head_bytes(const CacheShape& shape) { return scales_offset(shape) + (size_t)shape.slots() * 8; }

// A query head: for every four dimensions their high and their low digits, then this.
struct QueryFacts {
    float scale;  // of the scores
    int32_t high_sum, low_sum;
};
static inline size_t query_bytes(const CacheShape& shape) { return (size_t)quads(shape) * 8 + sizeof(QueryFacts); }

// What brings the largest of a head's values to `limit`. Below 1e-30 the reciprocal would overflow.
struct Scaling {
    float scale, inverse;

    Scaling(const float* x, int size, float limit) {
        f32x16 most = {};
        for (int first = 0; first < size; first += LANES) most = maximum(absolute(load_part(x, first, size)), most);
        float largest = largest_of(most);
        scale = largest > 1e-30f ? largest / limit : 0.0f;
        inverse = largest > 1e-30f ? limit / largest : 0.0f;
    }
};

static inline void write_key_value(const CacheShape& shape, uint8_t* head, int slot, const float* key,
                                   const float* value) {
    uint8_t* keys = head + 4 * slot;
    uint8_t* values = head + key_bytes(shape) + (size_t)(slot / 4) * 4 * shape.dims() + slot % 4;
    float* scales = (float*)(head + scales_offset(shape));
    int size = shape.head_dim;
    Scaling of_key(key, size, 127.0f), of_value(value, size, 127.0f);
    scales[slot] = of_key.scale;
    scales[shape.slots() + slot] = of_value.scale;
    for (int first = 0; first < size; first += LANES) {
        i32x16 k = to_nearest(load_part(key, first, size) * of_key.inverse) + 128;
        i32x16 v = to_nearest(load_part(value, first, size) * of_value.inverse);
        uint8_t k_lanes[LANES], v_lanes[LANES];
        store(k_lanes, __builtin_convertvector(k, u8x16));
        store(v_lanes, __builtin_convertvector(v, i8x16));
        int count = size - first < LANES ? size - first : LANES;
        for (int i = 0; i < count; i += 4) memcpy(keys + (size_t)(first + i) * shape.slots(), k_lanes + i, 4);
        // Byte by byte: another thread may be writing the slots beside this one.
        for (int i = 0; i < count; i++) values[4 * (first + i)] = v_lanes[i];
    }
}

// Numbers below 2^14 as two digits: for every four numbers their high digits, then their low ones.
static inline void store_digits(i32x16 high, i32x16 low, void* to, int count) {
    typedef int32_t i32x4 __attribute__((vector_size(16)));
    i32x4 h = (i32x4)__builtin_convertvector(high, i8x16), l = (i32x4)__builtin_convertvector(low, i8x16);
    auto digits = __builtin_shufflevector(h, l, 0, 4, 1, 5, 2, 6, 3, 7);
    memcpy(to, &digits, ceil_div(count, 4) * 8);
}

// One query head, times `scale`; times log2(e) too, so that a weight is a power of two.
static inline void write_query(const CacheShape& shape, const float* query, float scale, uint8_t* out) {
    int size = shape.head_dim;
    Scaling scaling(query, size, 127.0f * 128.0f);
    i32x16 high_sum = {}, low_sum = {};
    for (int first = 0; first < size; first += LANES) {
        i32x16 whole = to_nearest(load_part(query, first, size) * scaling.inverse);
        i32x16 high = (whole + 64) >> 7, low = whole - (high << 7);  // -127 … 127 and -64 … 63
        high_sum += high;
        low_sum += low;
        store_digits(high, low, out + 2 * first, size - first < LANES ? size - first : LANES);
    }
    QueryFacts facts{scaling.scale * (scale * LOG2_E), sum_of(high_sum), sum_of(low_sum)};
    memcpy(out + (size_t)quads(shape) * 8, &facts, sizeof facts);
}

// Scores of R rows with S segments of keys. Fetches the next keys, and the values of these, ahead: the blocks of a sequence
// lie anywhere, and the hardware's prefetcher stops at the end of each.
template <int R, int S>
static inline void score_segments(const AttentionTask& task, const QueryFacts* facts, int segment, int end) {
    const CacheShape& shape = *task.shape;
    i32x16 high[R][S], low[R][S];
    const uint8_t *keys[S], *values[S], *scales[S], *next_keys[S];
    size_t value_step = (size_t)shape.dims() * 4 * LANES / shape.head_dim;
#pragma GCC unroll 4
    for (int s = 0; s < S; s++) {
        SegmentPlace place(task, segment + s, end), next(task, segment + S + s, end);
        const uint8_t* head = task.head(place.block);
        keys[s] = head + 4 * place.slot;
        values[s] = head + key_bytes(shape) + (size_t)place.slot * shape.dims();
        scales[s] = head + scales_offset(shape) + 4 * place.slot;
        next_keys[s] = task.head(next.block) + 4 * next.slot;
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            high[r][s] = splat(-Q8_BIAS * facts[r].high_sum);
            low[r][s] = splat(-Q8_BIAS * facts[r].low_sum);
        }
    size_t step = (size_t)shape.slots() * 4;
    const int8_t* queries = (const int8_t*)task.interleaved;
    for (int quad = 0; quad < quads(shape); quad++, queries += 8 * R) {
        u8x64 k[S];
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            k[s] = load<u8x64>(keys[s] + quad * step);
            __builtin_prefetch(next_keys[s] + quad * step);
            __builtin_prefetch(values[s] + quad * value_step);
        }
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            int32_t q_high = load4(queries + 8 * r), q_low = load4(queries + 8 * r + 4);
#pragma GCC unroll 4
            for (int s = 0; s < S; s++) {
                high[r][s] = dot4_q8(high[r][s], k[s], q_high);
                low[r][s] = dot4_q8(low[r][s], k[s], q_low);
            }
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 4
        for (int s = 0; s < S; s++) {
            f32x16 product = to_float((high[r][s] << 7) + low[r][s]) * facts[r].scale;
            store(task.scores + r * task.stride + (segment + s) * LANES, product * load<f32x16>(scales[s]));
        }
}

// Scores of a row into weights as digits: for every four slots their high and their low ones, in the first half of the
// memory of the scores. Returns what the weighted sum of the int8 values is to be multiplied by.
static float weigh(const AttentionTask& task, int row) {
    const CacheShape& shape = *task.shape;
    float* scores = task.scores + row * task.stride;
    int keys = task.num_keys[row], end = task.num_segments(keys), all = task.num_segments(task.last_num_keys());
    f32x16 top = splat(mask_scores(task, scores, keys)), sum = {}, largest = {};
    task.for_each_segment(keys, [&](int segment, int block, int slot, int valid) {
        const uint8_t* scales = task.head(block) + scales_offset(shape) + 4 * (shape.slots() + slot);
        f32x16 weight = softmax_weight(load<f32x16>(scores + segment * LANES) - top);
        f32x16 scaled = weight * load<f32x16>(scales);
        if (valid < LANES) {
            weight = LANE < valid ? weight : f32x16{};
            scaled = LANE < valid ? scaled : f32x16{};
        }
        store(scores + segment * LANES, scaled);
        sum += weight;
        largest = maximum(scaled, largest);
    });
    constexpr float LIMIT = 127.0f * 128.0f + 127.0f;
    float most = largest_of(largest), inverse = most > 1e-30f ? LIMIT / most : 0.0f;
    for (int segment = 0; segment < end; segment++) {
        i32x16 whole = to_nearest(load<f32x16>(scores + segment * LANES) * inverse);
        // A segment's digits end before its scores begin, but for the first, which is read before it is written.
        store_digits(whole >> 7, whole & 127, (uint8_t*)scores + segment * 2 * LANES, LANES);
    }
    memset((uint8_t*)scores + end * 2 * LANES, 0, (size_t)(all - end) * 2 * LANES);
    float scale = most > 1e-30f ? most / LIMIT : 0.0f;
    return scale / sum_of(sum);
}

// Weighted sums of values for R rows from row `first`, for V vectors of dimensions from dimension `dim`.
template <int R, int V>
static inline void sum_values(const AttentionTask& task, const float* factors, int first, int dim) {
    const CacheShape& shape = *task.shape;
    i32x16 high[R][V] = {}, low[R][V] = {};
    int keys = task.last_num_keys();
    for (int start = 0, block = 0; start < keys; start += shape.block_size, block++) {
        const uint8_t* values = task.head(block) + key_bytes(shape) + 4 * dim;
        const int8_t* digits = (const int8_t*)(task.scores + first * task.stride) + (size_t)block * shape.slots() * 2;
        int count = keys - start < shape.block_size ? keys - start : shape.block_size;
        for (int quad = 0; quad < ceil_div(count, 4); quad++) {
            u8x64 v[V];
            for (int i = 0; i < V; i++) v[i] = load<u8x64>(values + (size_t)quad * 4 * shape.dims() + i * 64);
            for (int r = 0; r < R; r++) {
                const int8_t* weights = digits + r * task.stride * sizeof(float) + 8 * quad;
                for (int i = 0; i < V; i++) {
                    high[r][i] = dot4_signed(high[r][i], v[i], load4(weights));
                    low[r][i] = dot4_signed(low[r][i], v[i], load4(weights + 4));
                }
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int i = 0; i < V; i++) {
            f32x16 mean = fma(to_float(high[r][i]), splat(128.0f), to_float(low[r][i])) * factors[first + r];
            int at = dim + i * LANES, left = shape.head_dim - at;
            memcpy(task.outputs[first + r] + at, &mean, (left < LANES ? left : LANES) * sizeof(float));
        }
}

template <int R>
static void sum_dims(const AttentionTask& task, const float* factors, int first) {
    int dim = 0, dims = task.shape->dims();
    for (; dims - dim >= 4 * LANES; dim += 4 * LANES) sum_values<R, 4>(task, factors, first, dim);
    for (; dim < dims; dim += LANES) sum_values<R, 1>(task, factors, first, dim);
}

template <int R>
static void attend(const AttentionTask& task) {
    int num_quads = quads(*task.shape);
    interleave_queries<uint64_t, R>(task, num_quads);
    QueryFacts facts[R];
    for (int r = 0; r < R; r++) facts[r] = load<QueryFacts>(task.queries[r] + 8 * num_quads);
    // Few rows take several segments at once, so that their sums do not wait for each other.
    constexpr int S = R <= 3 ? 4 : R <= 6 ? 2 : 1;
    int segment = 0, end = task.num_segments(task.last_num_keys());
    for (; segment + S <= end; segment += S) score_segments<R, S>(task, facts, segment, end);
    for (; segment < end; segment++) score_segments<R, 1>(task, facts, segment, end);
    float factors[R];
    for (int r = 0; r < R; r++) factors[r] = weigh(task, r);
    // Three rows by four vectors of two sums each fill the registers.
    for (int first = 0; first + 3 <= R; first += 3) sum_dims<3>(task, factors, first);
    if constexpr (R % 3) sum_dims<R % 3>(task, factors, R - R % 3);
}

}  // namespace kv_int8
