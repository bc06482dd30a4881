// The linear layers by AMX where the CPU has it, else by gemm.h; the bits are the same, so who computes may change with
// the number of rows. Integers inside a group of 32 columns, then the float operations of gemm.h, in its order.
//
// A group of a block is a tile of weights as it lies in memory: 8 rows of 64 bytes, four columns of 16 outputs each. 4-bit
// ones are unpacked once for all rows of a span. A tile of activations is the 8 rows of a GroupTile.
//
// No machine with AMX was at hand, so from how many rows on it pays is measured at each start (amx.py). By count of
// instructions, a group costs for each row of activations AVX-512 8 products and 4 operations for scales, AMX 4
// operations, a store and a load; two of them fit a cycle. Once for a tile, AMX loads 16 rows, and stores 8 unpacked
// ones. That is about 5 + 6 R cycles against 13 + 3 R for R rows.
#pragma once

#include "gemm.h"
#include "tiles.h"

// Rows that one call computes: four tiles share an unpacked block.
constexpr int SPAN_ROWS = 4 * TILE_ROWS;

#if HAS_TILES

// From how many rows on AMX computes; 0: never. Set once, before any model is made, when AMX has been shown to compute
// what AVX-512 does, and has been measured (amx.py).
static int min_amx_rows = 0;

static inline bool uses_amx(int rows) { return min_amx_rows && rows >= min_amx_rows; }

// Tiles 0 to 3: sums of as many groups, so that a product need not wait for the one before. 4 and 5: activations.
// 6 and 7: weights.
constexpr int GROUPS_AT_ONCE = 4;
constexpr int UNPACKED_BYTES = GROUP * LANES;

static constexpr TileConfig tile_config() {
    static_assert(TILE_ROWS <= 16);
    TileConfig config;
    for (int t = 0; t < NUM_TILES; t++) {
        config.rows[t] = t < 6 ? TILE_ROWS : GROUP / 4;
        config.row_bytes[t] = t == 4 || t == 5 ? GROUP : 4 * LANES;
    }
    return config;
}

// Tiles of this thread, for the length of a task of so many rows. Not for longer: what else runs in the thread may use
// them too.
class TileSession {
   public:
    explicit TileSession(int rows) : is_open_(uses_amx(rows)) {
        static constexpr TileConfig config = tile_config();
        if (is_open_) configure_tiles(config);
    }
    ~TileSession() {
        if (is_open_) release_tiles();
    }
    TileSession(const TileSession&) = delete;

   private:
    bool is_open_;
};

template <int FORMAT>
static inline void prefetch_group(const uint8_t* group) {
    for (int i = 0; i < Layout<FORMAT>::group_bytes; i += 64) __builtin_prefetch(group + i + PREFETCH_BYTES);
}

template <int I>
static inline void dot_group(const GroupTile& x, const uint8_t* weights, i32x16* sums) {
    constexpr int A = 4 + I % 2, B = 6 + I % 2;
    zero_tile<I>();
    load_tile<A>(x.values, sizeof x.values[0]);
    load_tile<B>(weights, 4 * LANES);
    dot_tiles<I, A, B>();
    store_tile<I>(sums, sizeof sums[0]);
}

// One block of 16 outputs for the rows of a tile, all of them, whether they hold anything or not.
// weights: of the first group; those of the next lie `stride` bytes further.
template <int FORMAT>
static void multiply_tile(const uint8_t* block, const uint8_t* weights, size_t stride, int groups,
                          const GroupTile* tiles, f32x16* out) {
    i32x16 sums[GROUPS_AT_ONCE][TILE_ROWS];
    f32x16 y[TILE_ROWS] = {};
    for (int first = 0; first < groups; first += GROUPS_AT_ONCE) {
        int count = groups - first < GROUPS_AT_ONCE ? groups - first : GROUPS_AT_ONCE;
        const GroupTile* x = tiles + first;
        const uint8_t* w = weights + first * stride;
        dot_group<0>(x[0], w, sums[0]);
        if (count > 1) dot_group<1>(x[1], w + stride, sums[1]);
        if (count > 2) dot_group<2>(x[2], w + 2 * stride, sums[2]);
        if (count > 3) dot_group<3>(x[3], w + 3 * stride, sums[3]);
        for (int g = 0; g < count; g++) {
            const uint8_t* scales = block + (first + g) * Layout<FORMAT>::group_bytes + Layout<FORMAT>::quant_bytes;
            if (FORMAT == Q8) prefetch_group<FORMAT>(scales - Layout<FORMAT>::quant_bytes);
            f32x16 scale = load_f16(scales), minimum = FORMAT == Q4 ? load_f16(scales + 32) : f32x16{};
#pragma GCC unroll 16
            for (int r = 0; r < TILE_ROWS; r++) {
                i32x16 sum = FORMAT == Q8 ? sums[g][r] - 128 * x[g].sum[r] : sums[g][r];
                y[r] = fma(to_float(sum) * scale, splat(x[g].scale[r]), y[r]);
                if (FORMAT == Q4) y[r] = fma(minimum, splat(x[g].scaled_sum[r]), y[r]);
            }
        }
    }
    for (int r = 0; r < TILE_ROWS; r++) out[r] = y[r];
}

// 4-bit weights of a block as the bytes that load_tile wants, group after group.
static const uint8_t* unpack_block(const uint8_t* block, int groups) {
    static thread_local std::vector<u8x64> unpacked;
    if (unpacked.size() < (size_t)groups * 8) unpacked.resize((size_t)groups * 8);
    for (int g = 0; g < groups; g++) {
        const uint8_t* quants = block + g * Layout<Q4>::group_bytes;
        prefetch_group<Q4>(quants);
        load_weights<Q4>(quants, unpacked.data() + (size_t)g * 8);
    }
    return (const uint8_t*)unpacked.data();
}

// Needs a TileSession of at least as many rows. Writes whole tiles.
static void multiply_by_amx(const Matrix& matrix, int block, int rows, const GroupTile* tiles, f32x16* out) {
    const uint8_t* data = matrix.block(block);
    int groups = matrix.groups();
    const uint8_t* weights = matrix.format == Q4 ? unpack_block(data, groups) : data;
    for (int row = 0; row < rows; row += TILE_ROWS, tiles += groups) {
        if (matrix.format == Q4)
            multiply_tile<Q4>(data, weights, UNPACKED_BYTES, groups, tiles, out + row);
        else
            multiply_tile<Q8>(data, weights, Layout<Q8>::group_bytes, groups, tiles, out + row);
    }
}

#else

static inline bool uses_amx(int) { return false; }
struct TileSession {
    explicit TileSession(int) {}
};
static inline void multiply_by_amx(const Matrix&, int, int, const GroupTile*, f32x16*) {}

#endif

// One block of 16 outputs for up to SPAN_ROWS rows, from the tile `tiles` on; in a TileSession. `out` has SPAN_ROWS
// vectors; out[r] = 16 outputs for row r.
static void multiply_span(const Matrix& matrix, int block, int rows, const GroupTile* tiles, f32x16* out) {
    if (uses_amx(rows)) return multiply_by_amx(matrix, block, rows, tiles, out);
    for (int row = 0; row < rows; row += TILE_ROWS, tiles += matrix.groups())
        multiply_block(matrix, block, rows - row < TILE_ROWS ? rows - row : TILE_ROWS, tiles, out + row);
}
