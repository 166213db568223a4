// Operations on a row that need no intrinsics: each ISA's file compiles its own copy, vectorised with its own flags.
// The operations are IEEE-754 and in a written order, so the bits do not depend on how the compiler does it.
#pragma once

#include <cstdint>

#include "core/kernels/lanes.h"
#include "core/math.h"

namespace bitnet {

static inline void scale_norm_of(const float *x, float r, const float *w, int n, float *out) {
    for (int i = 0; i < n; ++i) out[i] = (x[i] * r) * w[i];
}

// acc and out may be the same memory with two types: memcpy says so to the compiler.
static inline void scale_accumulators_of(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    for (int i = 0; i < n; ++i) {
        int32_t a;
        __builtin_memcpy(&a, acc + i, sizeof a);
        const float y = (float(a) / s) * weight_scale;
        __builtin_memcpy(out + i, &y, sizeof y);
    }
}

static inline void relu2_gated_of(const float *gate, const float *up, int n, float *out) {
    for (int i = 0; i < n; ++i) {
        const float r = gate[i] < 0.0f ? 0.0f : gate[i];  // written so that NaN stays NaN
        out[i] = (r * r) * up[i];
    }
}

static inline void softmax_of(float *x, int n) {
    // The largest value is the same in any order; 16 lanes let the compiler use its registers. A NaN may be passed
    // over: its own exponential makes the sum NaN.
    float largest[16];
    for (int k = 0; k < 16; ++k) largest[k] = -__builtin_inff();
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; ++k) largest[k] = x[i + k] > largest[k] ? x[i + k] : largest[k];
    for (int k = 0; i + k < n; ++k) largest[k] = x[i + k] > largest[k] ? x[i + k] : largest[k];
    float m = largest[0];
    for (int k = 1; k < 16; ++k) m = largest[k] > m ? largest[k] : m;

    for (i = 0; i < n; ++i) x[i] = exp_f32(x[i] - m);
    float lane[16] = {};
    for (i = 0; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; ++k) lane[k] = lane[k] + x[i + k];
    for (int k = 0; i + k < n; ++k) lane[k] = lane[k] + x[i + k];
    const float sum = lane_tree(lane);
    for (i = 0; i < n; ++i) x[i] = x[i] / sum;
}

}  // namespace bitnet
