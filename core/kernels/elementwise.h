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

// W floats in the registers of the instruction set.
template <int W> struct Pack {
    typedef float Floats __attribute__((vector_size(4 * W)));
    typedef int32_t Ints __attribute__((vector_size(4 * W)));
};

// exp_f32 of math.h for what softmax asks of it, x <= 0 or NaN: no upper bound, and 2^k in one factor, because k >=
// -126 and a product by two powers of two is rounded once either way.
template <int W> static inline typename Pack<W>::Floats exp_not_above_0(typename Pack<W>::Floats x) {
    using Floats = typename Pack<W>::Floats;
    const float low = -87.33654f;
    const Floats c = x > low ? x : Floats{} + low;
    const Floats n = (c * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    const Floats r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
    Floats p = Floats{} + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const Floats y = (p * (r * r) + r) + 1.0f;
    const typename Pack<W>::Ints bits = (__builtin_convertvector(n, typename Pack<W>::Ints) + 127) << 23;
    Floats power;
    __builtin_memcpy(&power, &bits, sizeof power);
    Floats e = y * power;
    e = x < low ? Floats{} : e;
    return x != x ? x : e;
}

// The last elements, fewer than 16, are taken as 16 of which the others are -infinity: their exponential is 0, and a
// lane that began at +0 is the same after it. In a row of nothing else they are NaN, as the row's own are.
template <int W> static inline void softmax_of(float *x, int n) {
    using Floats = typename Pack<W>::Floats;
    constexpr int P = 16 / W;
    const int whole = n / 16 * 16;
    float last[16];
    for (int k = 0; k < 16; ++k) last[k] = whole + k < n ? x[whole + k] : -__builtin_inff();
    const auto each = [&](const auto &run) {
        for (int i = 0; i < whole; i += 16) run(x + i);
        run(last);
    };

    // The largest value is the same in any order. A NaN may be passed over: its own exponential makes the sum NaN.
    Floats largest[P];
    for (int p = 0; p < P; ++p) largest[p] = Floats{} - __builtin_inff();
    each([&](const float *at) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            Floats v;
            __builtin_memcpy(&v, at + p * W, sizeof v);
            largest[p] = v > largest[p] ? v : largest[p];
        }
    });
    float m = largest[0][0];
    for (int p = 0; p < P; ++p)
        for (int k = 0; k < W; ++k) m = largest[p][k] > m ? largest[p][k] : m;

    Floats lanes[P];
    for (int p = 0; p < P; ++p) lanes[p] = Floats{};
    each([&](float *at) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) {
            Floats v;
            __builtin_memcpy(&v, at + p * W, sizeof v);
            v = exp_not_above_0<W>(v - m);
            lanes[p] = lanes[p] + v;
            __builtin_memcpy(at + p * W, &v, sizeof v);
        }
    });
    float lane[16];
    __builtin_memcpy(lane, lanes, sizeof lane);
    const float sum = lane_tree(lane);
    for (int i = 0; i < whole; ++i) x[i] = x[i] / sum;
    for (int k = 0; whole + k < n; ++k) x[whole + k] = last[k] / sum;
}

}  // namespace bitnet
