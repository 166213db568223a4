// exp, log, sin, cos and rounding to half from IEEE-754 basic operations alone, in a written order: the same bits with
// every compiler, libc and instruction set. Static, not inline: a kernel file compiled for one instruction set must not
// lend its copy to the rest of the library. Error bounds are measured by tests/core/math_test.cpp (core/DESIGN.md).
#pragma once

#include <cmath>
#include <cstdint>

#include "model/half.h"

namespace bitnet {

// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no room for fraction bits.
static inline float round_even_small(float x) { return (x + 12582912.0f) - 12582912.0f; }

static inline float power_of_two(int n) {
    return __builtin_bit_cast(float, uint32_t(n + 127) << 23);
}  // -126 <= n <= 127

// e^x. Cephes' minimax polynomial (S. Moshier, expf). Below -87.33 the result would be subnormal: it is 0 here. Free of
// branches, so that loops over it vectorise.
static inline float exp_f32(float x) {
    const float low = -87.33654f, high = 88.72283f;
    float c = x > low ? x : low;  // NaN becomes low
    c = c < high ? c : high;
    const float n = round_even_small(c * 1.44269504088896341f);
    const float r = (c - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts: the first product is exact
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const float y = (p * (r * r) + r) + 1.0f;
    const int k = int(n);
    const int half = k >> 1;  // two factors: 2^128 alone is not a float
    float e = (y * power_of_two(half)) * power_of_two(k - half);
    e = x < low ? 0.0f : e;
    e = x > high ? __builtin_inff() : e;
    return x != x ? x : e;
}

// Double precision, for RoPE tables, sampling and log-probabilities. Relative error below 4e-16 (measured).
double exp_f64(double x);
double log_f64(double x);                                  // x > 0 and normal
void sin_cos_f64(double x, double &sine, double &cosine);  // |x| < 1.6e6

// To the nearest IEEE half, ties to even. The exact way back: model/half.h.
static inline uint16_t float_to_half(float f) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, f);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);            // rounds to 2^16 or is infinite
    if (magnitude < 0x38800000) {                                           // subnormal half: let the float adder round
        const float shifted = __builtin_bit_cast(float, magnitude) + 0.5f;  // ulp of [0.5, 1) is 2^-24
        return uint16_t(sign | (__builtin_bit_cast(uint32_t, shifted) - 0x3f000000));
    }
    const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
    return uint16_t(sign | ((rounded - 0x38000000) >> 13));
}

}  // namespace bitnet
