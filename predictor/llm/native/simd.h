// Sixteen lanes at a time: the vector type that every kernel is written in, and the few operations that it needs.
//
// GCC's vector extensions carry the type on any CPU; AVX-512 and AVX2 get intrinsics where the generic form would be
// slow or would round differently. Sums have one fixed order, and a fused multiply-add is always spelled fma(), so that
// AVX-512, AVX2 and the generic form give the same bits (compile with -ffp-contract=off).
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

constexpr int LANES = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef uint8_t u8x64 __attribute__((vector_size(64)));

static inline f32x16 splat(float x) { return x - f32x16{}; }
static inline i32x16 splat(int32_t x) { return x + i32x16{}; }

template <typename V>
static inline V load(const void* from) {
    V v;
    memcpy(&v, from, sizeof v);
    return v;
}

template <typename V>
static inline void store(void* to, V v) {
    memcpy(to, &v, sizeof v);
}

#if defined(__AVX2__)
// The two halves of a 16-lane value.
struct Halves {
    __m256i low, high;
};
template <typename V>
static inline Halves halves(V v) {
    Halves h;
    memcpy(&h, &v, sizeof h);
    return h;
}
template <typename V>
static inline V join(__m256i low, __m256i high) {
    Halves h{low, high};
    V v;
    memcpy(&v, &h, sizeof v);
    return v;
}
#endif

#if !defined(__AVX2__)
// Not inline, here and below: lane by lane it would fill the kernels with code that takes half a minute to compile.
__attribute__((noinline)) static void fma_lanes(const f32x16& a, const f32x16& b, f32x16& c) {
    for (int i = 0; i < LANES; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
}
#endif

// a * b + c, rounded once.
static inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__)
    Halves x = halves(a), y = halves(b), z = halves(c);
    return join<f32x16>((__m256i)_mm256_fmadd_ps((__m256)x.low, (__m256)y.low, (__m256)z.low),
                        (__m256i)_mm256_fmadd_ps((__m256)x.high, (__m256)y.high, (__m256)z.high));
#else
    fma_lanes(a, b, c);
    return c;
#endif
}

// a where it is greater, else b: of two zeros, and beside a NaN, b.
static inline f32x16 maximum(f32x16 a, f32x16 b) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return a > b ? a : b;
#endif
}
static inline f32x16 absolute(f32x16 a) { return (f32x16)((u32x16)a & 0x7fffffffu); }
static inline f32x16 to_float(i32x16 v) { return __builtin_convertvector(v, f32x16); }

// To the nearest integer, ties to even.
static inline i32x16 to_nearest(f32x16 v) {
#if defined(__AVX512F__)
    return (i32x16)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    Halves h = halves(v);
    return join<i32x16>(_mm256_cvtps_epi32((__m256)h.low), _mm256_cvtps_epi32((__m256)h.high));
#else
    i32x16 r;
    for (int i = 0; i < LANES; i++) r[i] = (int32_t)nearbyintf(v[i]);
    return r;
#endif
}

static inline f32x16 load_f16(const void* from) {
#if defined(__AVX512F__)
    return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
    const __m128i* halves_of_it = (const __m128i*)from;
    return join<f32x16>((__m256i)_mm256_cvtph_ps(_mm_loadu_si128(halves_of_it)),
                        (__m256i)_mm256_cvtph_ps(_mm_loadu_si128(halves_of_it + 1)));
#else
    f32x16 r;
    for (int i = 0; i < LANES; i++) {
        _Float16 h;
        memcpy(&h, (const char*)from + 2 * i, 2);
        r[i] = (float)h;
    }
    return r;
#endif
}

// To bfloat16, ties to even. A NaN stays one, and what is no normal number becomes a zero of its sign: as the CPU's own
// instruction does it.
static inline u16x16 to_bf16(f32x16 x) {
#if defined(__AVX512BF16__)
    return (u16x16)_mm512_cvtneps_pbh((__m512)x);
#else
    u32x16 bits = (u32x16)x, magnitude = bits & 0x7fffffffu;
    u32x16 rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    rounded = magnitude > 0x7f800000u ? bits >> 16 | 0x0040u : rounded;
    return __builtin_convertvector(magnitude < 0x00800000u ? bits >> 16 & 0x8000u : rounded, u16x16);
#endif
}

static inline f32x16 from_bf16(u32x16 x) { return (f32x16)(x << 16); }

// Per lane: sum + a[1] b[1] + a[0] b[0], rounded after each addition, with the same two bfloat16 b for all lanes. AVX-512's
// instruction adds the odd products first, and so do two fused multiply-adds (tested against each other).
static inline f32x16 dot2_bf16(f32x16 sum, u32x16 a, uint32_t b) {
#if defined(__AVX512BF16__)
    return (f32x16)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)_mm512_set1_epi32((int)b));
#else
    u32x16 all = b + u32x16{};
    sum = fma((f32x16)(a & 0xffff0000u), (f32x16)(all & 0xffff0000u), sum);
    return fma(from_bf16(a), from_bf16(all), sum);
#endif
}

static inline int32_t load4(const int8_t* from) {
    int32_t x;
    memcpy(&x, from, 4);
    return x;
}

// What dot4_q8 leaves to subtract: it sees the weights as unsigned where the CPU multiplies only unsigned by signed.
#if defined(__AVX512VNNI__)
constexpr int32_t Q8_BIAS = 128;
#else
constexpr int32_t Q8_BIAS = 0;
#endif

// Per lane: sum + w[0] x[0] + … + w[3] x[3], with sixteen times four weights and the same four signed bytes x for all.
// Weights of dot4_q4 are 0 … 15. Those of dot4_q8 are 0 … 255 and mean that less 128; see Q8_BIAS. Integers: exact.
// dot4_signed: weights are signed bytes, and those of x 0 … 127.
#if defined(__AVX512VNNI__)
static inline i32x16 dot4_signed(i32x16 sum, u8x64 w, int32_t x) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(x), (__m512i)w);
}
static inline i32x16 dot4_q4(i32x16 sum, u8x64 w, int32_t x) {
    return (i32x16)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(x));
}
static inline i32x16 dot4_q8(i32x16 sum, u8x64 w, int32_t x) { return dot4_q4(sum, w, x); }
#elif defined(__AVX2__)
static inline __m256i add_pairs(__m256i sum, __m256i unsigned8, __m256i signed8) {
    // No pair can overflow 16 bits: 2 * 15 * 127 and 2 * 128 * 127 are below 2^15.
    __m256i pairs = _mm256_maddubs_epi16(unsigned8, signed8);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline i32x16 dot4_signed(i32x16 sum, u8x64 w, int32_t x) {
    Halves s = halves(sum), v = halves(w);
    __m256i all = _mm256_set1_epi32(x);
    return join<i32x16>(add_pairs(s.low, all, v.low), add_pairs(s.high, all, v.high));
}
static inline i32x16 dot4_q4(i32x16 sum, u8x64 w, int32_t x) {
    Halves s = halves(sum), v = halves(w);
    __m256i all = _mm256_set1_epi32(x);
    return join<i32x16>(add_pairs(s.low, v.low, all), add_pairs(s.high, v.high, all));
}
static inline i32x16 dot4_q8(i32x16 sum, u8x64 w, int32_t x) {
    Halves s = halves(sum), v = halves(w ^ 0x80);
    __m256i all = _mm256_set1_epi32(x);
    return join<i32x16>(add_pairs(s.low, _mm256_abs_epi8(v.low), _mm256_sign_epi8(all, v.low)),
                        add_pairs(s.high, _mm256_abs_epi8(v.high), _mm256_sign_epi8(all, v.high)));
}
#else
__attribute__((noinline)) static void dot4_lanes(i32x16& sum, const u8x64& w, int32_t x, int32_t zero) {
    int8_t bytes[4];
    memcpy(bytes, &x, 4);
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) sum[lane] += ((int32_t)w[4 * lane + i] - zero) * bytes[i];
}
static inline i32x16 dot4_q4(i32x16 sum, u8x64 w, int32_t x) {
    dot4_lanes(sum, w, x, 0);
    return sum;
}
static inline i32x16 dot4_q8(i32x16 sum, u8x64 w, int32_t x) {
    dot4_lanes(sum, w, x, 128);
    return sum;
}
static inline i32x16 dot4_signed(i32x16 sum, u8x64 w, int32_t x) {
    dot4_lanes(sum, w ^ 0x80, x, 128);
    return sum;
}
#endif

// All sixteen lanes folded into one, always in the same order.
template <typename V, typename Op>
static inline auto fold(V v, Op op) {
    v = op(v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
    v = op(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
    v = op(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));
    v = op(v, __builtin_shufflevector(v, v, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0));
    return v[0];
}
template <typename V>
static inline auto sum_of(V v) {
    return fold(v, [](V a, V b) { return a + b; });
}
static inline float largest_of(f32x16 v) { return fold(v, maximum); }

// e^x to about one unit in the last place; 1 at 0 exactly, 0 below -87. Cephes' expf (Moshier), with the same
// polynomial in every lane: no library's vector function, whose last lanes may differ from the others.
static inline f32x16 exponential(f32x16 x) {
    f32x16 bounded = maximum(x, splat(-87.0f));
    bounded = bounded < 88.0f ? bounded : splat(88.0f);
    i32x16 n = to_nearest(bounded * 1.44269504088896341f);
    f32x16 r = fma(to_float(n), splat(-0.693359375f), bounded);
    r = fma(to_float(n), splat(2.12194440e-4f), r);
    f32x16 p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(p, r * r, r) + 1.0f;
    f32x16 scaled = p * (f32x16)((n + 127) << 23);
    return x < -87.0f ? f32x16{} : scaled;
}
