// One row of logits: its largest, and its tokens by how far they lie below it, without a look at most of them.
//
// `below` of a token is its logit less the largest, float32: 0 for the likeliest, -inf for what cannot be chosen. All
// that truncation decides, it decides by `below`. A NaN is below nothing: every comparison passes over it.
#pragma once

#include "simd.h"

#include <algorithm>
#include <functional>
#include <vector>

constexpr int BLOCK = 128;  // tokens whose largest logit is kept

// Bit i: lane i of a comparison.
static inline uint32_t lanes_of(i32x16 mask) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask);
#elif defined(__AVX2__)
    Halves h = halves(mask);
    return (uint32_t)_mm256_movemask_ps((__m256)h.low) | (uint32_t)_mm256_movemask_ps((__m256)h.high) << 8;
#else
    uint32_t bits = 0;
    for (int i = 0; i < LANES; i++) bits |= (uint32_t)(mask[i] & 1) << i;
    return bits;
#endif
}

class LogitRow {
   public:
    // `logits` stays the caller's. `block_largest` is working memory, good until the next row.
    LogitRow(const float* logits, int size, std::vector<float>& block_largest)
        : logits_(logits), size_(size), block_largest_(block_largest) {
        int num_blocks = (size + BLOCK - 1) / BLOCK, best = 0;
        block_largest.resize(num_blocks);
        for (int b = 0; b < num_blocks; b++) {
            f32x16 largest = splat(-INFINITY);
            int end = end_of(b);
            for (int i = b * BLOCK; i < end; i += LANES) largest = maximum(load_at(i), largest);
            block_largest[b] = largest_of(largest);
            if (block_largest[b] > block_largest[best]) best = b;
        }
        largest_ = block_largest[best];
        for (likeliest_ = best * BLOCK; likeliest_ < end_of(best) - 1; likeliest_++)
            if (logits[likeliest_] == largest_) break;
        if (largest_ == -INFINITY) likeliest_ = 0;
    }

    int size() const { return size_; }
    float largest() const { return largest_; }
    int likeliest() const { return likeliest_; }  // the first of them; 0 when nothing can be chosen

    float below(int token_id) const {
        float x = logits_[token_id];
        return x != x ? -INFINITY : below_of(x);
    }

    // Calls f(first token, their sixteen `below`) wherever one of a block's tokens may be at `threshold` or above.
    template <typename F>
    void for_each(float threshold, F f) const {
        for (size_t b = 0; b < block_largest_.size(); b++) {
            if (!(below_of(block_largest_[b]) >= threshold)) continue;
            for (int i = (int)b * BLOCK; i < end_of((int)b); i += LANES) {
                f32x16 v = load_at(i);
                f(i, v == largest_ ? f32x16{} : v - largest_);
            }
        }
    }

    // A threshold that at least `count` tokens reach, and not many more: the count-th largest of the blocks' largest.
    // -inf where there are not so many blocks, or nothing can be chosen.
    float bound_of(int count) const {
        if (count > (int)block_largest_.size() || largest_ == -INFINITY) return -INFINITY;
        static thread_local std::vector<float> sorted;
        sorted = block_largest_;
        std::nth_element(sorted.begin(), sorted.begin() + (count - 1), sorted.end(), std::greater<float>());
        return below_of(sorted[count - 1]);
    }

   private:
    // Equal infinities have no difference.
    float below_of(float x) const { return x == largest_ ? 0.0f : x - largest_; }

    int end_of(int block) const { return (block + 1) * BLOCK < size_ ? (block + 1) * BLOCK : size_; }

    // What lies past the end cannot be chosen.
    f32x16 load_at(int first) const {
        if (first + LANES <= size_) return load<f32x16>(logits_ + first);
        f32x16 v = splat(-INFINITY);
        memcpy(&v, logits_ + first, (size_ - first) * sizeof(float));
        return v;
    }

    const float* logits_;
    int size_, likeliest_;
    float largest_;
    const std::vector<float>& block_largest_;
};
