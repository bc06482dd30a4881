// Attention over a paged KV cache (PagedAttention, Kwon et al., 2023), read through the block tables, without a copy.
//
// Work is cut into tasks of up to twelve rows, a row being one query head of one token, that share a KV head: a decode
// has one task for each KV head, a chunk of prefill several, and each vector of keys or values that is loaded serves
// all rows of its task (grouped-query attention, Ainslie et al., 2023). Scores, softmax and the weighted sum of a row go
// over the keys in the order of their positions, whatever the other rows of the task, so a row's bits are its own. Keys
// after a query are never weighed, and slots that its sequence has not written are never read as values.
// Everything is bfloat16 but the sums and the exponential: queries and weights are rounded to it, as keys and values are.
#pragma once

#include "quantize.h"

// One layer's cache. A block holds, for each KV head, the keys as [head_dim / 2][slots][2] and the values as
// [pairs of slots][dims][2]; `slots` and `dims` are padded to whole vectors. Keys lie transposed, so that a vector holds
// two dimensions of sixteen positions and the scores of sixteen positions come out without a sum over lanes.
struct CacheShape {
    int block_size, num_kv_heads, head_dim;

    int slots() const { return round_up(block_size, LANES); }
    int dims() const { return round_up(head_dim, LANES); }
    size_t key_elements() const { return (size_t)head_dim * slots(); }
    size_t head_elements() const { return key_elements() + (size_t)round_up(block_size, 2) * dims(); }
    size_t block_elements() const { return num_kv_heads * head_elements(); }
    uint16_t* keys(uint16_t* layer, int block, int kv_head) const {
        return layer + block * block_elements() + kv_head * head_elements();
    }
    uint16_t* values(uint16_t* layer, int block, int kv_head) const {
        return keys(layer, block, kv_head) + key_elements();
    }
};

static inline void write_key_value(const CacheShape& shape, uint16_t* layer, int block, int slot, int kv_head,
                                   const float* key, const float* value) {
    uint16_t* keys = shape.keys(layer, block, kv_head) + 2 * slot;
    uint16_t* values = shape.values(layer, block, kv_head) + (size_t)(slot / 2) * 2 * shape.dims() + slot % 2;
    for (int first = 0; first < shape.head_dim; first += LANES) {
        int count = shape.head_dim - first < LANES ? shape.head_dim - first : LANES;
        f32x16 k = {}, v = {};
        memcpy(&k, key + first, count * sizeof(float));
        memcpy(&v, value + first, count * sizeof(float));
        u16x16 k16 = __builtin_convertvector(to_bf16(k), u16x16), v16 = __builtin_convertvector(to_bf16(v), u16x16);
        uint16_t k_lanes[LANES], v_lanes[LANES];
        store(k_lanes, k16);
        store(v_lanes, v16);
        for (int i = 0; i < count; i++) {
            int d = first + i;
            keys[(size_t)(d / 2) * 2 * shape.slots() + d % 2] = k_lanes[i];
            values[2 * d] = v_lanes[i];
        }
    }
}

constexpr int MAX_ROWS = 12;

// Up to MAX_ROWS query heads that read the same keys and values.
// queries: scaled by 1 / sqrt(head_dim), head_dim / 2 pairs of bfloat16 each. outputs: head_dim floats each.
// num_keys: how many positions each row sees, never falling.
// scores: scratch, `stride` floats for each row, at least all segments of the table.
struct AttentionTask {
    const CacheShape* shape;
    uint16_t* layer;
    const int32_t* block_table;
    int kv_head;
    int rows;
    const uint32_t* queries[MAX_ROWS];
    float* outputs[MAX_ROWS];
    int num_keys[MAX_ROWS];
    float* scores;
    size_t stride;

    int last_num_keys() const { return num_keys[rows - 1]; }
    int segments_per_block() const { return shape->slots() / LANES; }
    // A segment is a vector of sixteen slots of one block.
    int num_segments(int keys) const {
        int full = keys / shape->block_size * segments_per_block();
        return full + ceil_div(keys % shape->block_size, LANES);
    }
    const uint16_t* segment_keys(int segment) const {
        int per_block = segments_per_block();
        return shape->keys(layer, block_table[segment / per_block], kv_head) + segment % per_block * 2 * LANES;
    }
    // How many slots of a segment hold positions before `keys`.
    int valid_slots(int segment, int keys) const {
        int per_block = segments_per_block(), offset = segment % per_block * LANES;
        int in_block = keys - segment / per_block * shape->block_size;
        int valid = (in_block < shape->block_size ? in_block : shape->block_size) - offset;
        return valid < 0 ? 0 : valid > LANES ? LANES : valid;
    }
};

// Scores of R rows with S segments of keys.
template <int R, int S>
static inline void score_segments(const AttentionTask& task, int segment) {
    f32x16 sums[R][S] = {};
    const uint16_t* keys[S];
    for (int s = 0; s < S; s++) keys[s] = task.segment_keys(segment + s);
    size_t step = 2 * task.shape->slots();
    for (int pair = 0; pair < task.shape->head_dim / 2; pair++) {
        u32x16 k[S];
        for (int s = 0; s < S; s++) k[s] = load<u32x16>(keys[s] + pair * step);
        for (int r = 0; r < R; r++)
            for (int s = 0; s < S; s++) sums[r][s] = dot2_bf16(sums[r][s], k[s], task.queries[r][pair]);
    }
    for (int r = 0; r < R; r++)
        for (int s = 0; s < S; s++) store(task.scores + r * task.stride + (segment + s) * LANES, sums[r][s]);
}

template <int R>
static void score(const AttentionTask& task) {
    // Few rows take several segments at once, so that their sums do not wait for each other.
    constexpr int S = R <= 3 ? 4 : R <= 6 ? 2 : 1;
    int segment = 0, end = task.num_segments(task.last_num_keys());
    for (; segment + S <= end; segment += S) score_segments<R, S>(task, segment);
    for (; segment < end; segment++) score_segments<R, 1>(task, segment);
}

// Scores of a row into weights, not yet divided by their sum; returns the sum. Slots that are not its own weigh 0. The
// weights are bfloat16 and take the first half of the memory of the scores.
static float weigh(const AttentionTask& task, int row) {
    float* scores = task.scores + row * task.stride;
    uint16_t* weights = (uint16_t*)scores;
    int keys = task.num_keys[row], end = task.num_segments(keys), all = task.num_segments(task.last_num_keys());
    const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    f32x16 largest = splat(-INFINITY);
    for (int segment = 0; segment < end; segment++) {
        f32x16 s = load<f32x16>(scores + segment * LANES);
        int valid = task.valid_slots(segment, keys);
        if (valid < LANES) {
            s = lane < valid ? s : splat(-INFINITY);
            store(scores + segment * LANES, s);
        }
        largest = maximum(s, largest);
    }
    f32x16 top = splat(largest_of(largest)), sum = {};
    for (int segment = 0; segment < end; segment++) {
        // A segment's weights end before its scores begin, but for the first, which is read before it is written.
        u32x16 weight = to_bf16(exponential(load<f32x16>(scores + segment * LANES) - top));
        store(weights + segment * LANES, __builtin_convertvector(weight, u16x16));
        // The rounded weights, so that they add up to their sum.
        sum += from_bf16(weight);
    }
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
        const uint16_t* values = shape.values(task.layer, task.block_table[block], task.kv_head) + 2 * dim;
        const float* weights = task.scores + first * task.stride + (size_t)block * shape.slots() / 2;
        int count = keys - start < shape.block_size ? keys - start : shape.block_size;
        auto add_pair = [&](int pair, uint32_t mask) {
            u32x16 v[V];
            for (int i = 0; i < V; i++)
                v[i] = load<u32x16>(values + (size_t)pair * 2 * shape.dims() + i * 2 * LANES) & mask;
            for (int r = 0; r < R; r++) {
                uint32_t weight;
                memcpy(&weight, weights + r * task.stride + pair, sizeof weight);
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
static void attend_rows(const AttentionTask& task) {
    score<R>(task);
    float inverse_sums[R];
    for (int r = 0; r < R; r++) inverse_sums[r] = 1.0f / weigh(task, r);
    // Six rows by four vectors of sums fill the registers.
    constexpr int SIX = R < 6 ? R : 6;
    sum_dims<SIX>(task, inverse_sums, 0);
    if constexpr (R > 6) sum_dims<R - 6>(task, inverse_sums, 6);
}

static void attend(const AttentionTask& task) {
    switch (task.rows) {
        case 1: return attend_rows<1>(task);
        case 2: return attend_rows<2>(task);
        case 3: return attend_rows<3>(task);
        case 4: return attend_rows<4>(task);
        case 5: return attend_rows<5>(task);
        case 6: return attend_rows<6>(task);
        case 7: return attend_rows<7>(task);
        case 8: return attend_rows<8>(task);
        case 9: return attend_rows<9>(task);
        case 10: return attend_rows<10>(task);
        case 11: return attend_rows<11>(task);
        default: return attend_rows<12>(task);
    }
}
