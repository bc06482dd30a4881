// The decoder as plain structures: what Python fills in (library.py mirrors them field by field), and the working memory.
#pragma once

#include "kv_cache.h"
#include "gemm.h"
#include "threads.h"

#include <chrono>

// Vectors are padded with zeros to whole groups of 32. A missing bias is null.
struct Layer {
    const float* input_norm;
    const float* post_norm;
    Matrix q, k, v, o, gate, up, down;
    const float* q_bias;
    const float* k_bias;
    const float* v_bias;
};

struct Config {
    int32_t num_layers, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, vocab_size, num_threads,
        kv_format;
    float rms_norm_eps;
    const float* rotary_frequencies;  // head_dim / 2
    const float* norm;
    const Layer* layers;
    Matrix embedding, lm_head;
};

// A step: chunks of tokens side by side. Chunk i has num_tokens[i] tokens at positions start_positions[i], …; its block
// table begins at block_tables[table_offsets[i]]. logit_rows: the rows, rising, whose logits may be asked for; the last
// layer computes nothing for the others but their keys and values.
struct Step {
    int32_t num_chunks, num_tokens_in_all, block_size, num_blocks, num_logit_rows;
    const int32_t* token_ids;
    const int32_t* start_positions;
    const int32_t* num_tokens;
    const int32_t* table_offsets;
    const int32_t* block_tables;
    const int32_t* logit_rows;
    uint8_t* cache;  // [num_layers][num_blocks], see CacheShape
};

// Where a step's time goes, in the order of a layer.
enum Phase { EMBED, NORM, QKV, ROTARY, ATTENTION, OUTPUT, GATE_UP, DOWN, LM_HEAD, NUM_PHASES };

struct Model {
    explicit Model(const Config& c)
        : config(c),
          layers(c.layers, c.layers + c.num_layers),
          team(c.num_threads),
          hidden_stride(round_up(c.hidden_size, GROUP)),
          q_size(c.num_heads * c.head_dim),
          kv_size(c.num_kv_heads * c.head_dim),
          q_stride(round_up(q_size, GROUP)),
          kv_stride(round_up(kv_size, GROUP)) {}

    Config config;
    std::vector<Layer> layers;
    ThreadTeam team;
    int hidden_stride, q_size, kv_size, q_stride, kv_stride;

    // By row of the step.
    std::vector<float> hidden, q, k, v, attended, rotations;
    std::vector<uint8_t> queries;  // q, turned and scaled, see write_query
    std::vector<int32_t> positions, blocks, slots;
    std::vector<int32_t> logit_rows;  // of the last step; row i of `hidden` is that of row logit_rows[i]
    Activations x, inner;
    double seconds[NUM_PHASES] = {};
};

// Adds the time until its end to a phase.
class Timer {
   public:
    Timer(Model& model, Phase phase) : total_(model.seconds[phase]), start_(std::chrono::steady_clock::now()) {}
    ~Timer() { total_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

   private:
    double& total_;
    std::chrono::steady_clock::time_point start_;
};
