// Linear layers: packed 4-bit or 8-bit weights times int8 activations, with float32 results.
//
// A weight matrix is cut into blocks of 16 output rows, interleaved so that one vector holds four weights of each.
// Per group of 32 columns the products are summed in integers, which is exact; then
//     y += (sum * weight scale) * activation scale  [+ weight minimum * (activation scale * activation sum)]
// goes over the groups in order. Every element of the result is computed so, however many rows there are and whichever
// thread does it: that is what makes a row's bits its own. The formulas are those of ggml's Q4_1 x Q8_1 and Q8_0 x Q8_0.
//
// amx.h computes the same by other instructions: whoever changes the float operations here changes them there.
#pragma once

#include "quantize.h"

enum Format : int32_t { Q4 = 0, Q8 = 1 };

// Layout of a block of 16 rows: for each group its quants, 16 scales and, for Q4, 16 minima, float16.
// Q4: byte [i][row][j] of a group holds column 4 i + j low and 16 + 4 i + j high; a weight is quant * scale + minimum.
// Q8: byte [i][row][j] holds column 4 i + j, plus 128; a weight is (quant - 128) * scale.
template <int FORMAT>
struct Layout {
    static constexpr int quant_bytes = FORMAT == Q4 ? 256 : 512;
    static constexpr int group_bytes = quant_bytes + (FORMAT == Q4 ? 64 : 32);
};

static inline int quant_bytes(int format) { return format == Q4 ? Layout<Q4>::quant_bytes : Layout<Q8>::quant_bytes; }
static inline int group_bytes(int format) { return format == Q4 ? Layout<Q4>::group_bytes : Layout<Q8>::group_bytes; }

// Far enough ahead for memory to answer.
constexpr int PREFETCH_BYTES = 8192;

static inline size_t block_bytes(int format, int groups) {
    return (size_t)round_up(groups * group_bytes(format), 64);
}

struct Matrix {
    const uint8_t* data;
    int32_t format;
    int32_t rows;
    int32_t columns;

    int blocks() const { return ceil_div(rows, LANES); }
    int groups() const { return ceil_div(columns, GROUP); }
    const uint8_t* block(int index) const { return data + index * block_bytes(format, groups()); }
};

template <int FORMAT>
static inline void load_weights(const uint8_t* quants, u8x64 w[8]) {
    if (FORMAT == Q4) {
        for (int i = 0; i < 4; i++) {
            u8x64 pair = load<u8x64>(quants + 64 * i);
            w[i] = pair & 15;
            w[i + 4] = pair >> 4;
        }
    } else {
        for (int i = 0; i < 8; i++) w[i] = load<u8x64>(quants + 64 * i);
    }
}

// One block of 16 outputs for R rows of a tile.
template <int FORMAT, int R>
static inline void multiply(const uint8_t* block, int groups, const GroupTile* tiles, f32x16* out) {
    f32x16 y[R];
    for (int r = 0; r < R; r++) y[r] = f32x16{};
    for (int g = 0; g < groups; g++) {
        const uint8_t* quants = block + g * Layout<FORMAT>::group_bytes;
        const uint8_t* scales = quants + Layout<FORMAT>::quant_bytes;
        // The hardware's prefetcher stops at every page.
        for (int i = 0; i < Layout<FORMAT>::group_bytes; i += 64) __builtin_prefetch(quants + i + PREFETCH_BYTES);
        u8x64 w[8];
        load_weights<FORMAT>(quants, w);
        f32x16 scale = load_f16(scales), minimum = FORMAT == Q4 ? load_f16(scales + 32) : f32x16{};
        const GroupTile& x = tiles[g];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            i32x16 sum = FORMAT == Q8 ? splat(-Q8_BIAS * x.sum[r]) : i32x16{};
#pragma GCC unroll 8
            for (int i = 0; i < 8; i++) {
                int32_t bytes = load4(x.values[r] + 4 * i);
                sum = FORMAT == Q4 ? dot4_q4(sum, w[i], bytes) : dot4_q8(sum, w[i], bytes);
            }
            y[r] = fma(to_float(sum) * scale, splat(x.scale[r]), y[r]);
            if (FORMAT == Q4) y[r] = fma(minimum, splat(x.scaled_sum[r]), y[r]);
        }
    }
    for (int r = 0; r < R; r++) out[r] = y[r];
}

template <int FORMAT>
static inline void multiply_rows(int rows, const uint8_t* block, int groups, const GroupTile* tiles, f32x16* out) {
    switch (rows) {
        case 1: return multiply<FORMAT, 1>(block, groups, tiles, out);
        case 2: return multiply<FORMAT, 2>(block, groups, tiles, out);
        case 3: return multiply<FORMAT, 3>(block, groups, tiles, out);
        case 4: return multiply<FORMAT, 4>(block, groups, tiles, out);
        case 5: return multiply<FORMAT, 5>(block, groups, tiles, out);
        case 6: return multiply<FORMAT, 6>(block, groups, tiles, out);
        case 7: return multiply<FORMAT, 7>(block, groups, tiles, out);
        default: return multiply<FORMAT, 8>(block, groups, tiles, out);
    }
}

// out[r] = 16 outputs for row r of the tile, for the `rows` rows that the tile has.
static void multiply_block(const Matrix& matrix, int block, int rows, const GroupTile* tiles, f32x16* out) {
    if (matrix.format == Q4)
        multiply_rows<Q4>(rows, matrix.block(block), matrix.groups(), tiles, out);
    else
        multiply_rows<Q8>(rows, matrix.block(block), matrix.groups(), tiles, out);
}

// Row `row` of a matrix as floats, padded with zeros to whole groups: how an embedding is looked up.
static void read_row(const Matrix& matrix, int row, float* out) {
    int groups = matrix.groups(), lane = row % LANES;
    const uint8_t* block = matrix.block(row / LANES);
    bool is_q4 = matrix.format == Q4;
    for (int g = 0; g < groups; g++) {
        const uint8_t* quants = block + g * group_bytes(matrix.format);
        const uint8_t* scales = quants + quant_bytes(matrix.format);
        float scale = load_f16(scales)[lane], minimum = is_q4 ? load_f16(scales + 32)[lane] : 0.0f;
        for (int k = 0; k < GROUP; k++) {
            int at = (is_q4 ? k % 16 : k) / 4 * 64 + lane * 4 + k % 4;
            int quant = is_q4 ? (k < 16 ? quants[at] & 15 : quants[at] >> 4) : quants[at] - 128;
            out[g * GROUP + k] = (float)quant * scale + minimum;
        }
    }
}
