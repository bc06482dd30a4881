// Activations as int8 with one scale per group of 32, the form in which every linear layer reads them.
//
// A tile holds a group of up to eight rows side by side, so that the inner loop of a multiplication walks through memory
// in order. Groups of 32 are what the GGUF formats have; one scale per token instead costs this family 4 % perplexity.
#pragma once

#include "simd.h"

#include <vector>

constexpr int GROUP = 32;
constexpr int TILE_ROWS = 8;

static inline int ceil_div(int a, int b) { return (a + b - 1) / b; }
static inline int round_up(int a, int b) { return ceil_div(a, b) * b; }

struct alignas(64) GroupTile {
    int8_t values[TILE_ROWS][GROUP];
    float scale[TILE_ROWS];
    float scaled_sum[TILE_ROWS];  // scale times the sum of the values
    int32_t sum[TILE_ROWS];
};

// Rows of `columns` activations, padded with zeros to whole groups. Tiles stand in the order (tile of rows, group).
class Activations {
   public:
    void resize(int num_rows, int columns) {
        rows = num_rows;
        groups = ceil_div(columns, GROUP);
        size_t needed = (size_t)ceil_div(rows, TILE_ROWS) * groups;
        if (tiles_.size() < needed) tiles_.resize(needed);
    }
    GroupTile* tile(int row_tile) { return tiles_.data() + (size_t)row_tile * groups; }
    const GroupTile* tile(int row_tile) const { return tiles_.data() + (size_t)row_tile * groups; }

    int rows = 0;
    int groups = 0;

   private:
    std::vector<GroupTile> tiles_;
};

// Puts 32 values into one row of a tile.
static inline void quantize_group(f32x16 a, f32x16 b, GroupTile& tile, int row) {
    float largest = largest_of(maximum(absolute(a), absolute(b)));
    // Below, the reciprocal would overflow.
    float inverse = largest > 1e-30f ? 127.0f / largest : 0.0f;
    i32x16 low = to_nearest(a * inverse), high = to_nearest(b * inverse);
    store(tile.values[row], __builtin_convertvector(low, i8x16));
    store(tile.values[row] + LANES, __builtin_convertvector(high, i8x16));
    int32_t sum = sum_of(low + high);
    float scale = largest > 1e-30f || largest != largest ? largest / 127.0f : 0.0f;
    tile.scale[row] = scale;
    tile.scaled_sum[row] = scale * (float)sum;
    tile.sum[row] = sum;
}

// One row of floats, padded with zeros to whole groups.
static inline void quantize_row(const float* x, Activations& out, int row) {
    GroupTile* tiles = out.tile(row / TILE_ROWS);
    for (int g = 0; g < out.groups; g++)
        quantize_group(load<f32x16>(x + g * GROUP), load<f32x16>(x + g * GROUP + LANES), tiles[g], row % TILE_ROWS);
}
