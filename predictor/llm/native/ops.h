// What a decoder layer does between its matrices, row by row: RMSNorm, rotary embedding, SwiGLU.
//
// RMSNorm: Zhang and Sennrich, 2019. Rotary embedding in the half-split layout: Su et al., 2021. SwiGLU: Shazeer, 2020.
// All in float32. A row depends on nothing but itself.
#pragma once

#include "quantize.h"

// x / rms(x) * weight, for `size` values padded with zeros to a multiple of 32; `out` may be x.
static void rms_norm(const float* x, const float* weight, int size, float eps, float* out) {
    int padded = round_up(size, GROUP);
    f32x16 squares[2] = {};
    for (int i = 0; i < padded; i += GROUP)
        for (int j = 0; j < 2; j++) {
            f32x16 v = load<f32x16>(x + i + j * LANES);
            squares[j] = fma(v, v, squares[j]);
        }
    float factor = 1.0f / sqrtf(sum_of(squares[0] + squares[1]) / (float)size + eps);
    for (int i = 0; i < padded; i += LANES)
        store(out + i, load<f32x16>(x + i) * factor * load<f32x16>(weight + i));
}

static inline f32x16 silu(f32x16 x) { return x / (exponential(-x) + 1.0f); }

// Cosines, then sines, of a position's angles; `half` frequencies. libm's scalar functions: no vector tails.
static inline void rotation(int position, const float* frequencies, int half, float* out) {
    for (int i = 0; i < half; i++) {
        float angle = (float)position * frequencies[i];
        out[i] = cosf(angle);
        out[half + i] = sinf(angle);
    }
}

// Turns one head by the angles of its token; dimension i turns with i + half.
static inline void rotate(float* head, const float* rotation, int half) {
    for (int i = 0; i < half; i++) {
        float a = head[i], b = head[i + half], c = rotation[i], s = rotation[half + i];
        head[i] = a * c - b * s;
        head[i + half] = b * c + a * s;
    }
}
