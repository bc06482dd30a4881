// What a step asks of the KV cache, whichever form it has.
#pragma once

#include "kv_bfloat16.h"
#include "kv_int8.h"

size_t CacheShape::head_bytes() const {
    return format == KV_INT8 ? kv_int8::head_bytes(*this) : kv_bfloat16::head_bytes(*this);
}

size_t CacheShape::query_bytes() const {
    return format == KV_INT8 ? kv_int8::query_bytes(*this) : kv_bfloat16::query_bytes(*this);
}

// `head`: of the block; key, value: head_dim floats.
static inline void write_key_value(const CacheShape& shape, uint8_t* head, int slot, const float* key,
                                   const float* value) {
    if (shape.format == KV_INT8)
        kv_int8::write_key_value(shape, head, slot, key, value);
    else
        kv_bfloat16::write_key_value(shape, head, slot, key, value);
}

// A query head, times `scale`, in the form in which attend() reads it: query_bytes() of them.
static inline void write_query(const CacheShape& shape, const float* query, float scale, uint8_t* out) {
    if (shape.format == KV_INT8)
        kv_int8::write_query(shape, query, scale, out);
    else
        kv_bfloat16::write_query(shape, query, scale, out);
}

template <int R>
static void attend_rows(const AttentionTask& task) {
    if (task.shape->format == KV_INT8)
        kv_int8::attend<R>(task);
    else
        kv_bfloat16::attend<R>(task);
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
