// Attention over a paged KV cache (PagedAttention, Kwon et al., 2023), read through the block tables, without a copy.
//
// Work is cut into tasks of up to twelve rows, a row being one query head of one token, that share a KV head: a decode
// has one task for each KV head, a chunk of prefill several, and each vector of keys or values that is loaded serves
// all rows of its task (grouped-query attention, Ainslie et al., 2023). Scores, softmax and the weighted sum of a row go
// over the keys in the order of their positions, whatever the other rows of the task, so a row's bits are its own. Keys
// after a query are never weighed, and slots that its sequence has not written are never read as values.
//
// Here is what both forms of the cache have in common: how blocks and tasks are cut. kv_bfloat16.h and kv_int8.h say how
// keys, values and queries lie in memory, and compute.
#pragma once

#include "quantize.h"

enum KvFormat : int32_t { KV_BFLOAT16 = 0, KV_INT8 = 1 };

// How one layer's cache is cut. A block holds `head_bytes` for each KV head; `slots` and `dims` are padded to vectors.
struct CacheShape {
    int32_t format, block_size, num_kv_heads, head_dim;

    int slots() const { return round_up(block_size, LANES); }
    int dims() const { return round_up(head_dim, LANES); }
    size_t head_bytes() const;
    size_t block_bytes() const { return num_kv_heads * head_bytes(); }
    // How far one query head lies from the next, in the form in which the scores read it.
    size_t query_bytes() const;
    uint8_t* head(uint8_t* layer, int block, int kv_head) const {
        return layer + block * block_bytes() + kv_head * head_bytes();
    }
};

constexpr int MAX_ROWS = 12;

// Up to MAX_ROWS query heads that read the same keys and values.
// queries: in the cache's form, see `write_query`. outputs: head_dim floats each.
// num_keys: how many positions each row sees, never falling.
// scores: scratch, `stride` floats for each row, at least all segments of the table.
// interleaved: scratch for the queries of all rows, `query_bytes` each.
struct AttentionTask {
    AttentionTask(const CacheShape& of_cache, uint8_t* layer, int kv_head)
        : shape(&of_cache),
          first_head(layer + kv_head * of_cache.head_bytes()),
          block_bytes(of_cache.block_bytes()) {}

    const CacheShape* shape;
    const uint8_t* first_head;  // of block 0
    size_t block_bytes;
    const int32_t* block_table;
    int rows;
    const uint8_t* queries[MAX_ROWS];
    float* outputs[MAX_ROWS];
    int num_keys[MAX_ROWS];
    float* scores;
    size_t stride;
    uint8_t* interleaved;

    int last_num_keys() const { return num_keys[rows - 1]; }
    int segments_per_block() const { return shape->slots() / LANES; }
    // A segment is a vector of sixteen slots of one block.
    int num_segments(int keys) const {
        int full = keys / shape->block_size * segments_per_block();
        return full + ceil_div(keys % shape->block_size, LANES);
    }
    const uint8_t* head(int block) const { return first_head + block_table[block] * block_bytes; }

    // Calls f(segment, its block, its first slot in the block, how many of its slots hold positions before `keys`).
    template <typename F>
    void for_each_segment(int keys, F f) const {
        int per_block = segments_per_block(), size = shape->block_size;
        for (int block = 0; block * size < keys; block++) {
            int left = keys - block * size < size ? keys - block * size : size;
            for (int slot = 0; slot < left; slot += LANES)
                f(block * per_block + slot / LANES, block, slot, left - slot < LANES ? left - slot : LANES);
        }
    }
};

// Where a segment's keys lie.
struct SegmentPlace {
    int block, slot;

    // A segment past the last one is taken for the last: for what is only fetched ahead.
    SegmentPlace(const AttentionTask& task, int segment, int end) : block(segment < end ? segment : end - 1), slot(0) {
        // Most caches have one segment in a block: then nothing is divided.
        if (int per_block = task.segments_per_block(); per_block > 1) {
            slot = block % per_block * LANES;
            block /= per_block;
        }
    }
};

// Lays units of the R queries side by side: what an inner loop reads next lies next to it, at a fixed distance.
template <typename Unit, int R>
static inline void interleave_queries(const AttentionTask& task, int num_units) {
    for (int r = 0; r < R; r++)
        for (int i = 0; i < num_units; i++)
            memcpy(task.interleaved + (i * R + r) * sizeof(Unit), task.queries[r] + i * sizeof(Unit), sizeof(Unit));
}

// Sixteen floats from `first` on, zeros after `size`.
static inline f32x16 load_part(const float* x, int first, int size) {
    if (size - first >= LANES) return load<f32x16>(x + first);
    f32x16 part = {};
    memcpy(&part, x + first, (size - first) * sizeof(float));
    return part;
}

static const i32x16 LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Puts the lanes of a row's scores that are no keys of its own to -inf, and returns the largest score.
static float mask_scores(const AttentionTask& task, float* scores, int keys) {
    f32x16 largest = splat(-INFINITY);
    task.for_each_segment(keys, [&](int segment, int, int, int valid) {
        f32x16 s = load<f32x16>(scores + segment * LANES);
        if (valid < LANES) {
            s = LANE < valid ? s : splat(-INFINITY);
            store(scores + segment * LANES, s);
        }
        largest = maximum(s, largest);
    });
    return largest_of(largest);
}

constexpr float LOG2_E = 1.44269504088896341f;

// 2^x for x <= 0 as a weight, with a polynomial that is right to three units in a million, where weights keep eight or
// fourteen bits. Exactly 1 at 0; below 2^-126 it stays there, which no sum shows.
static inline f32x16 softmax_weight(f32x16 x) {
    f32x16 y = maximum(x, splat(-126.0f));
    i32x16 n = to_nearest(y);
    f32x16 r = y - to_float(n);
    f32x16 p = splat(9.5828520e-3f);
    p = fma(p, r, splat(5.5906426e-2f));
    p = fma(p, r, splat(0.24024099f));
    p = fma(p, r, splat(0.69312418f));
    p = fma(p, r, splat(1.0f));
    return (f32x16)((i32x16)p + (n << 23));
}
