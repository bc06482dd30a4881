// The tile instructions of AMX, one function each, or a model of them in plain C++.
//
// A tile is up to 16 rows of up to 64 bytes, as the configuration says (Intel's Software Developer's Manual, volume 2:
// LDTILECFG, TILEZERO, TILELOADD, TDPBSUD, TILESTORED, TILERELEASE; palette 1). The model, compiled with
// -DSIMULATE_TILES, traps where the CPU would fault. With it the tests run amx.h on any machine.
//
// Assembly and not the compiler's intrinsics: those of gcc 12 do not say what memory they read, so that it drops the
// stores before them. Here an operand or "memory" says it. The compiler uses no tile register by itself.
#pragma once

#include "simd.h"

#if defined(SIMULATE_TILES)
#define HAS_TILES 1
#elif defined(__x86_64__) && defined(__linux__) && defined(__AVX512BF16__)
#define HAS_TILES 1
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAS_TILES 0
#endif

#if HAS_TILES

constexpr int NUM_TILES = 8;

// The operand of LDTILECFG.
struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#if defined(SIMULATE_TILES)

struct TileState {
    bool is_configured = false;
    TileConfig config;
    uint8_t data[NUM_TILES][16][64];
};
static thread_local TileState tile_state;

static inline void fault_unless(bool is_allowed) {
    if (!is_allowed) __builtin_trap();
}

// For tests of what must notice: the answer to request_tiles, and what is added to every sum.
static int32_t simulated_refusal = 0, simulated_error = 0;

static inline int request_tiles() { return simulated_refusal; }

static inline void configure_tiles(const TileConfig& config) {
    fault_unless(config.palette == 1);
    for (int t = 0; t < 16; t++) {
        fault_unless(config.rows[t] <= 16 && config.row_bytes[t] <= 64);
        fault_unless((config.rows[t] == 0) == (config.row_bytes[t] == 0) && (t < NUM_TILES || config.rows[t] == 0));
    }
    tile_state.is_configured = true;
    tile_state.config = config;
    memset(tile_state.data, 0, sizeof tile_state.data);
}

static inline void release_tiles() { tile_state.is_configured = false; }

template <int T>
static inline void zero_tile() {
    fault_unless(tile_state.is_configured && tile_state.config.rows[T] > 0);
    memset(tile_state.data[T], 0, sizeof tile_state.data[T]);
}

template <int T>
static inline void load_tile(const void* from, size_t stride) {
    zero_tile<T>();
    for (int row = 0; row < tile_state.config.rows[T]; row++)
        memcpy(tile_state.data[T][row], (const char*)from + row * stride, tile_state.config.row_bytes[T]);
}

template <int T>
static inline void store_tile(void* to, size_t stride) {
    fault_unless(tile_state.is_configured && tile_state.config.rows[T] > 0);
    for (int row = 0; row < tile_state.config.rows[T]; row++)
        memcpy((char*)to + row * stride, tile_state.data[T][row], tile_state.config.row_bytes[T]);
}

template <int C, int A, int B>
static inline void dot_tiles() {
    const TileConfig& config = tile_state.config;
    fault_unless(tile_state.is_configured && C != A && C != B && A != B);
    fault_unless(config.rows[C] == config.rows[A] && config.row_bytes[C] == config.row_bytes[B]);
    fault_unless(config.row_bytes[A] == 4 * config.rows[B] && config.rows[A] > 0 && config.rows[B] > 0);
    for (int m = 0; m < config.rows[C]; m++)
        for (int n = 0; n < config.row_bytes[C] / 4; n++) {
            int32_t sum;
            memcpy(&sum, &tile_state.data[C][m][4 * n], 4);
            sum += simulated_error;
            for (int k = 0; k < config.row_bytes[A]; k++)
                sum += (int32_t)(int8_t)tile_state.data[A][m][k] * tile_state.data[B][k / 4][4 * n + k % 4];
            memcpy(&tile_state.data[C][m][4 * n], &sum, 4);
        }
}

#else

// Asks the kernel for the right to use tiles, for all threads of the process: 0, or an errno. Linux gives it only to who
// asks, because a signal's frame grows by 8 KB.
static inline int request_tiles() {
    constexpr int ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 ? 0 : errno;
}

static inline void configure_tiles(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config)); }

// Gives the registers back: with tiles in use, every switch to another thread saves 8 KB.
static inline void release_tiles() { asm volatile("tilerelease"); }

template <int T>
static inline void zero_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(T));
}

// Rows lie `stride` bytes apart.
template <int T>
static inline void load_tile(const void* from, size_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(T) : "memory");
}

template <int T>
static inline void store_tile(void* to, size_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(T) : "memory");
}

// C[m][n] += the sum over k of A[m][k] (signed) times B[k / 4][4 n + k % 4] (unsigned); C has 32-bit numbers.
template <int C, int A, int B>
static inline void dot_tiles() {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(C), "i"(A), "i"(B));
}

#endif

#endif  // HAS_TILES
