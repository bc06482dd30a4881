// Linear layers over all rows of a step, shared among the threads. Each task computes some blocks of outputs for some
// tiles of rows; how the work is cut changes who computes an element, never how.
#pragma once

#include "amx.h"
#include "model.h"
#include "ops.h"

// Activations of so many rows stay in the second-level cache while the blocks of a task pass over them.
constexpr int TILES_PER_TASK = 16;
static_assert(TILES_PER_TASK * TILE_ROWS % SPAN_ROWS == 0);

struct TaskShape {
    int num_block_parts, blocks_per_part, num_tile_parts;

    TaskShape(const ThreadTeam& team, int blocks, int tiles) {
        num_tile_parts = ceil_div(tiles, TILES_PER_TASK);
        // A few tasks for each thread, so that one that lost its core for a while is not waited for long.
        blocks_per_part = blocks * num_tile_parts / (4 * team.num_threads());
        blocks_per_part = blocks_per_part < 1 ? 1 : blocks_per_part > 16 ? 16 : blocks_per_part;
        num_block_parts = ceil_div(blocks, blocks_per_part);
    }
    int num_tasks() const { return num_block_parts * num_tile_parts; }
};

// Calls use(block, first row, rows, first tile) for every block of outputs and every span of rows, in a TileSession.
template <typename F>
static void for_each_block(ThreadTeam& team, int blocks, const Activations& x, F use) {
    int tiles = ceil_div(x.rows, TILE_ROWS);
    TaskShape shape(team, blocks, tiles);
    team.parallel(shape.num_tasks(), [&](int task) {
        int first_row = task / shape.num_block_parts * TILES_PER_TASK * TILE_ROWS;
        int first_block = task % shape.num_block_parts * shape.blocks_per_part;
        int end = first_row + TILES_PER_TASK * TILE_ROWS < x.rows ? first_row + TILES_PER_TASK * TILE_ROWS : x.rows;
        TileSession session(end - first_row);
        // AVX-512 gains nothing from more rows at once, and a tile of them stays in the first-level cache.
        int span = uses_amx(end - first_row) ? SPAN_ROWS : TILE_ROWS;
        for (int block = first_block; block < first_block + shape.blocks_per_part && block < blocks; block++)
            for (int row = first_row; row < end; row += span)
                use(block, row, end - row < span ? end - row : span, x.tile(row / TILE_ROWS));
    });
}

// q, k and v = x Wᵀ + b, in one loop over the blocks of all three.
static void project_qkv(Model& m, const Layer& layer) {
    int q_blocks = layer.q.blocks(), k_blocks = layer.k.blocks(), v_blocks = layer.v.blocks();
    for_each_block(m.team, q_blocks + k_blocks + v_blocks, m.x, [&](int i, int row, int rows, const GroupTile* tiles) {
        bool is_q = i < q_blocks, is_k = !is_q && i < q_blocks + k_blocks;
        const Matrix& matrix = is_q ? layer.q : is_k ? layer.k : layer.v;
        const float* bias = is_q ? layer.q_bias : is_k ? layer.k_bias : layer.v_bias;
        float* out = (is_q ? m.q : is_k ? m.k : m.v).data();
        int stride = is_q ? m.q_stride : m.kv_stride;
        int block = is_q ? i : is_k ? i - q_blocks : i - q_blocks - k_blocks;
        f32x16 y[SPAN_ROWS];
        multiply_span(matrix, block, rows, tiles, y);
        f32x16 b = bias ? load<f32x16>(bias + block * LANES) : f32x16{};
        for (int r = 0; r < rows; r++) store(out + (size_t)(row + r) * stride + block * LANES, y[r] + b);
    });
}

// hidden += x Wᵀ
static void add_linear(Model& m, const Matrix& matrix, const Activations& x) {
    for_each_block(m.team, matrix.blocks(), x, [&](int block, int row, int rows, const GroupTile* tiles) {
        f32x16 y[SPAN_ROWS];
        multiply_span(matrix, block, rows, tiles, y);
        for (int r = 0; r < rows; r++) {
            float* hidden = m.hidden.data() + (size_t)(row + r) * m.hidden_stride + block * LANES;
            store(hidden, load<f32x16>(hidden) + y[r]);
        }
    });
}

// inner = silu(x Wgateᵀ) * (x Wupᵀ), quantized: two blocks of each make one group of what `down` reads.
static void gate_up(Model& m, const Layer& layer) {
    int blocks = layer.gate.blocks();
    m.inner.resize(m.x.rows, m.config.intermediate_size);
    for_each_block(m.team, ceil_div(blocks, 2), m.x, [&](int pair, int row, int rows, const GroupTile* tiles) {
        f32x16 product[2][SPAN_ROWS];
        for (int i = 0; i < 2; i++) {
            f32x16 gate[SPAN_ROWS];
            if (2 * pair + i == blocks) {
                for (int r = 0; r < rows; r++) product[i][r] = f32x16{};
                break;
            }
            multiply_span(layer.gate, 2 * pair + i, rows, tiles, gate);
            multiply_span(layer.up, 2 * pair + i, rows, tiles, product[i]);
            for (int r = 0; r < rows; r++) product[i][r] *= silu(gate[r]);
        }
        for (int r = 0; r < rows; r++) {
            GroupTile& out = m.inner.tile((row + r) / TILE_ROWS)[pair];
            quantize_group(product[0][r], product[1][r], out, r % TILE_ROWS);
        }
    });
}

// out[row] = the logits of row `row` of x; `out` has vocab_size floats a row.
static void project_logits(Model& m, const Activations& x, float* out) {
    int vocab = m.config.vocab_size;
    for_each_block(m.team, m.config.lm_head.blocks(), x, [&](int block, int row, int rows, const GroupTile* tiles) {
        f32x16 y[SPAN_ROWS];
        multiply_span(m.config.lm_head, block, rows, tiles, y);
        int left = vocab - block * LANES;
        size_t size = (left < LANES ? left : LANES) * sizeof(float);
        for (int r = 0; r < rows; r++) memcpy(out + (size_t)(row + r) * vocab + block * LANES, &y[r], size);
    });
}
