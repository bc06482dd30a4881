// Weights from the order of a model file into the order of gemm.h. What is 4-bit or 8-bit in the file keeps its values to
// the bit; everything else becomes 8-bit with one scale per group of 32.
#pragma once

#include "gemm.h"

// Bytes of a GGML block of 32 weights: float16 scale, for Q4_1 also float16 minimum, then the quants.
enum Source : int32_t { SOURCE_Q4_0 = 0, SOURCE_Q4_1 = 1, SOURCE_Q8_0 = 2, SOURCE_F32 = 3 };

static inline uint16_t to_f16(float x) {
    _Float16 h = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &h, 2);
    return bits;
}

static inline float from_f16(const uint8_t* from) {
    _Float16 h;
    memcpy(&h, from, 2);
    return (float)h;
}

static inline void pack_q4(const uint8_t* from, bool has_minimum, uint8_t* quants, uint8_t* scales, int lane) {
    memcpy(scales + 2 * lane, from, 2);
    // Q4_0 counts from -8: a minimum of -8 scales, exact in float16 (the caller has looked for overflow).
    uint16_t minimum = to_f16(-8.0f * from_f16(from));
    if (has_minimum) memcpy(&minimum, from + 2, 2);
    memcpy(scales + 32 + 2 * lane, &minimum, 2);
    const uint8_t* nibbles = from + (has_minimum ? 4 : 2);
    for (int i = 0; i < 4; i++) memcpy(quants + 64 * i + 4 * lane, nibbles + 4 * i, 4);
}

static inline void pack_q8(const int8_t* values, uint16_t scale, uint8_t* quants, uint8_t* scales, int lane) {
    memcpy(scales + 2 * lane, &scale, 2);
    for (int k = 0; k < GROUP; k++) quants[k / 4 * 64 + 4 * lane + k % 4] = (uint8_t)(values[k] + 128);
}

static inline void pack_f32(const float* from, int count, uint8_t* quants, uint8_t* scales, int lane) {
    float largest = 0.0f;
    for (int k = 0; k < count; k++) largest = fmaxf(largest, fabsf(from[k]));
    uint16_t scale = to_f16(largest / 127.0f);
    float rounded = from_f16((const uint8_t*)&scale);
    int8_t values[GROUP] = {};
    // Against the scale as it is kept, so that its rounding is not added to theirs.
    for (int k = 0; k < count && rounded > 0.0f; k++) {
        float quant = nearbyintf(from[k] / rounded);
        values[k] = (int8_t)fminf(127.0f, fmaxf(-127.0f, quant));
    }
    pack_q8(values, scale, quants, scales, lane);
}

// One block of 16 rows; rows that the matrix lacks become zeros. `from` is the whole matrix, row after row.
static void pack_block(const uint8_t* from, int source, int rows, int columns, int block, uint8_t* to) {
    int groups = ceil_div(columns, GROUP);
    bool is_q4 = source == SOURCE_Q4_0 || source == SOURCE_Q4_1;
    int format = is_q4 ? Q4 : Q8;
    int stored_bytes = source == SOURCE_Q4_0 ? 18 : source == SOURCE_Q4_1 ? 20 : source == SOURCE_Q8_0 ? 34 : 128;
    size_t row_bytes = source == SOURCE_F32 ? (size_t)columns * 4 : (size_t)groups * stored_bytes;
    memset(to, 0, block_bytes(format, groups));
    for (int lane = 0; lane < LANES && block * LANES + lane < rows; lane++) {
        const uint8_t* row = from + (size_t)(block * LANES + lane) * row_bytes;
        for (int g = 0; g < groups; g++) {
            const uint8_t* stored = row + (size_t)g * stored_bytes;
            uint8_t* quants = to + g * group_bytes(format);
            uint8_t* scales = quants + quant_bytes(format);
            if (is_q4) {
                pack_q4(stored, source == SOURCE_Q4_1, quants, scales, lane);
            } else if (source == SOURCE_Q8_0) {
                uint16_t scale;
                memcpy(&scale, stored, 2);
                pack_q8((const int8_t*)stored + 2, scale, quants, scales, lane);
            } else {
                int count = columns - g * GROUP < GROUP ? columns - g * GROUP : GROUP;
                pack_f32((const float*)stored, count, quants, scales, lane);
            }
        }
    }
}
