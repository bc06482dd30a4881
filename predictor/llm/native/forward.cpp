// A step of the engine through a decoder of the Llama family, in one call: the flat batch of tokens in, hidden rows out;
// a second call makes logits of the rows that need them. Knows no scheduler, no sampling and no files.
//
// Compiled by compiler.py, called by library.py. No exception may leave a function that Python calls.
#include "linear.h"
#include "pack.h"
#include "sampling.h"
#include "status.h"

#include <algorithm>
#include <new>

static bool is_in_range(const Model& m, const Step& step) {
    for (int i = 0; i < step.num_tokens_in_all; i++)
        if (step.token_ids[i] < 0 || step.token_ids[i] >= m.config.vocab_size) return false;
    for (int c = 0; c < step.num_chunks; c++) {
        const int32_t* table = step.block_tables + step.table_offsets[c];
        int blocks = ceil_div(step.start_positions[c] + step.num_tokens[c], step.block_size);
        if (step.start_positions[c] < 0 || step.num_tokens[c] < 1) return false;
        for (int i = 0; i < blocks; i++)
            if (table[i] < 0 || table[i] >= step.num_blocks) return false;
    }
    for (int i = 0; i < step.num_logit_rows; i++) {
        int after = i ? step.logit_rows[i - 1] : -1;
        if (step.logit_rows[i] <= after || step.logit_rows[i] >= step.num_tokens_in_all) return false;
    }
    return true;
}

static CacheShape cache_shape(const Model& m, const Step& step) {
    return {m.config.kv_format, step.block_size, m.config.num_kv_heads, m.config.head_dim};
}

static void prepare(Model& m, const Step& step) {
    size_t rows = step.num_tokens_in_all;
    auto grow = [](auto& buffer, size_t size) {
        if (buffer.size() < size) buffer.resize(size);
    };
    grow(m.hidden, rows * m.hidden_stride);
    grow(m.q, rows * m.q_stride);
    grow(m.queries, rows * m.config.num_heads * cache_shape(m, step).query_bytes());
    grow(m.k, rows * m.kv_stride);
    grow(m.v, rows * m.kv_stride);
    grow(m.attended, rows * m.q_stride);
    grow(m.rotations, rows * m.config.head_dim);
    grow(m.positions, rows);
    grow(m.blocks, rows);
    grow(m.slots, rows);
    m.logit_rows.assign(step.logit_rows, step.logit_rows + step.num_logit_rows);
    int row = 0;
    for (int c = 0; c < step.num_chunks; c++)
        for (int i = 0; i < step.num_tokens[c]; i++, row++) {
            int position = m.positions[row] = step.start_positions[c] + i;
            m.blocks[row] = step.block_tables[step.table_offsets[c] + position / step.block_size];
            m.slots[row] = position % step.block_size;
        }
}

// Calls f(row) for every row, a tile a task: threads that wrote to one tile would fight for its cache lines. In a long
// prefill more: neighbouring tokens share cache lines of the KV cache too.
template <typename F>
static void for_each_row(Model& m, int rows, F f) {
    int rows_per_task = rows < 128 ? TILE_ROWS : 8 * TILE_ROWS;
    m.team.parallel(ceil_div(rows, rows_per_task), [&](int task) {
        for (int row = task * rows_per_task; row < (task + 1) * rows_per_task && row < rows; row++) f(row);
    });
}

static void embed(Model& m, const Step& step) {
    Timer timer(m, EMBED);
    for_each_row(m, step.num_tokens_in_all, [&](int row) {
        read_row(m.config.embedding, step.token_ids[row], m.hidden.data() + (size_t)row * m.hidden_stride);
        int half = m.config.head_dim / 2;
        rotation(m.positions[row], m.config.rotary_frequencies, half, m.rotations.data() + (size_t)row * 2 * half);
    });
}

// Row i of x = norm(hidden row which(i)), quantized.
template <typename F>
static void normalize(Model& m, const float* weight, int rows, F which) {
    m.x.resize(rows, m.config.hidden_size);
    for_each_row(m, rows, [&](int i) {
        static thread_local std::vector<float> normed;
        if (normed.size() < (size_t)m.hidden_stride) normed.resize(m.hidden_stride);
        const float* hidden = m.hidden.data() + (size_t)which(i) * m.hidden_stride;
        rms_norm(hidden, weight, m.config.hidden_size, m.config.rms_norm_eps, normed.data());
        quantize_row(normed.data(), m.x, i);
    });
}

static void normalize_all(Model& m, const float* weight, int rows) {
    Timer timer(m, NORM);
    normalize(m, weight, rows, [](int i) { return i; });
}

// Turns q and k, scales q, and writes k and v to the cache.
static void rotate_and_write(Model& m, const CacheShape& shape, uint8_t* layer_cache, int rows) {
    Timer timer(m, ROTARY);
    const Config& c = m.config;
    float scale = 1.0f / sqrtf((float)c.head_dim);
    for_each_row(m, rows, [&](int row) {
        const float* rotation = m.rotations.data() + (size_t)row * c.head_dim;
        float* q = m.q.data() + (size_t)row * m.q_stride;
        float* k = m.k.data() + (size_t)row * m.kv_stride;
        const float* v = m.v.data() + (size_t)row * m.kv_stride;
        uint8_t* query = m.queries.data() + row * c.num_heads * shape.query_bytes();
        for (int head = 0; head < c.num_heads; head++) {
            rotate(q + head * c.head_dim, rotation, c.head_dim / 2);
            write_query(shape, q + head * c.head_dim, scale, query + head * shape.query_bytes());
        }
        for (int head = 0; head < c.num_kv_heads; head++) {
            rotate(k + head * c.head_dim, rotation, c.head_dim / 2);
            write_key_value(shape, shape.head(layer_cache, m.blocks[row], head), m.slots[row], k + head * c.head_dim,
                            v + head * c.head_dim);
        }
    });
}

// Rows of one chunk that share a KV head: `rows` of (token, query head of the group), from `first` on.
struct AttentionPart {
    int chunk, first_row, kv_head, first, rows;
};

static std::vector<AttentionPart> plan_attention(const Model& m, const Step& step) {
    int group = m.config.num_heads / m.config.num_kv_heads;
    std::vector<AttentionPart> parts;
    for (int c = 0, first_row = 0; c < step.num_chunks; first_row += step.num_tokens[c++]) {
        int rows = step.num_tokens[c] * group;
        for (int kv_head = 0; kv_head < m.config.num_kv_heads; kv_head++)
            for (int first = 0; first < rows; first += MAX_ROWS)
                parts.push_back({c, first_row, kv_head, first, rows - first < MAX_ROWS ? rows - first : MAX_ROWS});
    }
    return parts;
}

// The parts that have one of the rows, which rise.
static std::vector<AttentionPart> parts_with(const std::vector<AttentionPart>& parts, const std::vector<int32_t>& rows,
                                             int group) {
    std::vector<AttentionPart> kept;
    for (const AttentionPart& part : parts) {
        auto first = std::lower_bound(rows.begin(), rows.end(), part.first_row + part.first / group);
        int last_row = part.first_row + (part.first + part.rows - 1) / group;
        if (first != rows.end() && *first <= last_row) kept.push_back(part);
    }
    return kept;
}

static void attend_part(Model& m, const Step& step, const CacheShape& shape, uint8_t* layer_cache,
                        const AttentionPart& part) {
    static thread_local std::vector<float> scores;
    static thread_local std::vector<uint8_t> interleaved;
    const Config& c = m.config;
    int group = c.num_heads / c.num_kv_heads;
    AttentionTask task(shape, layer_cache, part.kv_head);
    task.block_table = step.block_tables + step.table_offsets[part.chunk];
    task.rows = part.rows;
    for (int r = 0; r < part.rows; r++) {
        int token = (part.first + r) / group, head = part.kv_head * group + (part.first + r) % group;
        size_t row = part.first_row + token;
        task.queries[r] = m.queries.data() + (row * c.num_heads + head) * shape.query_bytes();
        task.outputs[r] = m.attended.data() + row * m.q_stride + head * c.head_dim;
        task.num_keys[r] = step.start_positions[part.chunk] + token + 1;
    }
    task.stride = (size_t)task.num_segments(task.last_num_keys()) * LANES;
    if (scores.size() < task.stride * MAX_ROWS) scores.resize(task.stride * MAX_ROWS);
    task.scores = scores.data();
    if (interleaved.size() < MAX_ROWS * shape.query_bytes()) interleaved.resize(MAX_ROWS * shape.query_bytes());
    task.interleaved = interleaved.data();
    attend(task);
}

static void attend_all(Model& m, const Step& step, const CacheShape& shape, uint8_t* layer_cache,
                       const std::vector<AttentionPart>& parts) {
    Timer timer(m, ATTENTION);
    // The longest first: the last tasks of a loop are then short ones, and nobody waits long for them.
    m.team.parallel((int)parts.size(), [&](int task) {
        attend_part(m, step, shape, layer_cache, parts[parts.size() - 1 - task]);
    });
}

// Until the keys and values of all rows are in the cache.
static void begin_layer(Model& m, const Layer& layer, const CacheShape& shape, uint8_t* layer_cache, int rows) {
    normalize_all(m, layer.input_norm, rows);
    {
        Timer timer(m, QKV);
        project_qkv(m, layer);
    }
    rotate_and_write(m, shape, layer_cache, rows);
}

// From what attention gave on, for the first `rows` rows.
static void end_layer(Model& m, const Layer& layer, int rows) {
    {
        Timer timer(m, OUTPUT);
        m.x.resize(rows, m.q_size);
        for_each_row(m, rows, [&](int row) { quantize_row(m.attended.data() + (size_t)row * m.q_stride, m.x, row); });
        add_linear(m, layer.o, m.x);
    }
    normalize_all(m, layer.post_norm, rows);
    {
        Timer timer(m, GATE_UP);
        gate_up(m, layer);
    }
    Timer timer(m, DOWN);
    add_linear(m, layer.down, m.inner);
}

// Moves the rows whose logits may be asked for to the front.
static void keep_logit_rows(Model& m) {
    for (size_t i = 0; i < m.logit_rows.size(); i++) {
        size_t row = m.logit_rows[i];
        memmove(m.hidden.data() + i * m.hidden_stride, m.hidden.data() + row * m.hidden_stride,
                m.hidden_stride * sizeof(float));
        memmove(m.attended.data() + i * m.q_stride, m.attended.data() + row * m.q_stride, m.q_stride * sizeof(float));
    }
}

static void run(Model& m, const Step& step) {
    prepare(m, step);
    CacheShape shape = cache_shape(m, step);
    std::vector<AttentionPart> parts = plan_attention(m, step);
    embed(m, step);
    int rows = step.num_tokens_in_all;
    for (int i = 0; i < m.config.num_layers; i++) {
        uint8_t* layer_cache = step.cache + (size_t)i * step.num_blocks * shape.block_bytes();
        begin_layer(m, m.layers[i], shape, layer_cache, rows);
        bool is_last = i + 1 == m.config.num_layers;
        if (is_last) parts = parts_with(parts, m.logit_rows, m.config.num_heads / m.config.num_kv_heads);
        attend_all(m, step, shape, layer_cache, parts);
        if (is_last) {
            keep_logit_rows(m);
            rows = (int)m.logit_rows.size();
        }
        if (rows) end_layer(m, m.layers[i], rows);
    }
}

extern "C" {

// Asks for AMX: 0 when this process may use it, -1 when the library has no kernels for it, else the kernel's errno. Ask
// only on a CPU that has it.
int32_t native_request_amx() {
#if HAS_TILES
    return request_tiles();
#else
    return -1;
#endif
}

// From how many rows on linear layers use AMX, in all models of this library; 0: never.
void native_set_min_amx_rows([[maybe_unused]] int32_t rows) {
#if HAS_TILES
    min_amx_rows = rows;
#endif
}

#if defined(SIMULATE_TILES)
void native_simulate(int32_t refusal, int32_t error) {
    simulated_refusal = refusal;
    simulated_error = error;
}
#endif

// Null when there is no memory. The weights stay the caller's, and must outlive the model.
Model* native_new(const Config* config) {
    try {
        return new Model(*config);
    } catch (...) {
        return nullptr;
    }
}

void native_free(Model* model) { delete model; }

// The threads that compute the model: between its steps they can sample.
ThreadTeam* native_team(Model* model) { return &model->team; }

// Bytes of one layer's part of a KV block.
int64_t native_block_bytes(const CacheShape* shape) { return (int64_t)shape->block_bytes(); }

// Runs a step; the hidden rows stay in the model for native_logits.
int32_t native_forward(Model* model, const Step* step) {
    Model& m = *model;
    if (!is_in_range(m, *step)) return OUT_OF_RANGE;
    try {
        run(m, *step);
    } catch (...) {
        return NO_MEMORY;
    }
    return OK;
}

// Logits of some rows of the last step, which are among its logit_rows; float32 [num_rows, vocab_size].
int32_t native_logits(Model* model, const int32_t* rows, int32_t num_rows, float* out) {
    Model& m = *model;
    Timer timer(m, LM_HEAD);
    try {
        std::vector<int> places(num_rows);
        for (int i = 0; i < num_rows; i++) {
            auto found = std::lower_bound(m.logit_rows.begin(), m.logit_rows.end(), rows[i]);
            if (found == m.logit_rows.end() || *found != rows[i]) return OUT_OF_RANGE;
            places[i] = (int)(found - m.logit_rows.begin());
        }
        normalize(m, m.config.norm, num_rows, [&](int i) { return places[i]; });
        project_logits(m, m.x, out);
    } catch (...) {
        return NO_MEMORY;
    }
    return OK;
}

// Seconds spent in each phase since the model was made.
void native_seconds(const Model* model, double* out) { memcpy(out, model->seconds, sizeof model->seconds); }

int64_t native_packed_bytes(int32_t format, int32_t rows, int32_t columns) {
    return (int64_t)(ceil_div(rows, LANES) * block_bytes(format, ceil_div(columns, GROUP)));
}

// Packs a matrix of rows in the order of a file; see pack.h. `to` holds native_packed_bytes.
void native_pack(const uint8_t* from, int32_t source, int32_t rows, int32_t columns, uint8_t* to) {
    int format = source == SOURCE_Q4_0 || source == SOURCE_Q4_1 ? Q4 : Q8;
    size_t size = block_bytes(format, ceil_div(columns, GROUP));
    for (int block = 0; block < ceil_div(rows, LANES); block++)
        pack_block(from, source, rows, columns, block, to + block * size);
}

// The kernels one by one, for the tests: each is what a step runs.

void native_read_row(const Matrix* matrix, int32_t row, float* out) { read_row(*matrix, row, out); }

void native_linear(const Matrix* matrix, const float* x, int32_t num_rows, int32_t num_threads, float* out) {
    ThreadTeam team(num_threads);
    Activations quantized;
    quantized.resize(num_rows, matrix->columns);
    int stride = quantized.groups * GROUP;
    for (int row = 0; row < num_rows; row++) quantize_row(x + (size_t)row * stride, quantized, row);
    for_each_block(team, matrix->blocks(), quantized, [&](int block, int row, int rows, const GroupTile* tiles) {
        f32x16 y[SPAN_ROWS];
        multiply_span(*matrix, block, rows, tiles, y);
        int left = matrix->rows - block * LANES;
        for (int r = 0; r < rows; r++)
            memcpy(out + (size_t)(row + r) * matrix->rows + block * LANES, &y[r],
                   (left < LANES ? left : LANES) * sizeof(float));
    });
}

void native_exponential(const float* x, int32_t size, float* out) {
    for (int i = 0; i < size; i += LANES) store(out + i, exponential(load<f32x16>(x + i)));
}

void native_rms_norm(const float* x, const float* weight, int32_t size, float eps, float* out) {
    rms_norm(x, weight, size, eps, out);
}

void native_write_key_value(const CacheShape* shape, uint8_t* layer, int32_t block, int32_t slot, int32_t kv_head,
                            const float* key, const float* value) {
    write_key_value(*shape, shape->head(layer, block, kv_head), slot, key, value);
}

// `rows` queries, at most twelve, of one KV head; float32 [rows, head_dim], scaled already. num_keys must not fall.
void native_attend(const CacheShape* shape, uint8_t* layer, const int32_t* block_table, int32_t kv_head, int32_t rows,
                   const float* queries, const int32_t* num_keys, float* out) {
    std::vector<uint8_t> written(rows * shape->query_bytes());
    std::vector<uint8_t> interleaved(written.size());
    AttentionTask task(*shape, layer, kv_head);
    task.block_table = block_table;
    task.rows = rows;
    task.interleaved = interleaved.data();
    for (int r = 0; r < rows; r++) {
        uint8_t* query = written.data() + r * shape->query_bytes();
        write_query(*shape, queries + r * shape->head_dim, 1.0f, query);
        task.queries[r] = query;
        task.outputs[r] = out + r * shape->head_dim;
        task.num_keys[r] = num_keys[r];
    }
    task.stride = (size_t)task.num_segments(task.last_num_keys()) * LANES;
    std::vector<float> scores(task.stride * MAX_ROWS);
    task.scores = scores.data();
    attend(task);
}

}  // extern "C"
