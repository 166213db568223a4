// Exact conversions of 16-bit floats. Static, not inline: see core/math.h.
#pragma once

#include <cstdint>

namespace bitnet {

static inline float half_to_float(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000) << 16;
    const uint32_t exponent = (h >> 10) & 0x1f;
    const uint32_t mantissa = h & 0x3ff;
    if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24, exact
        const float magnitude = float(mantissa) * 5.9604644775390625e-8f;
        return __builtin_bit_cast(float, __builtin_bit_cast(uint32_t, magnitude) | sign);
    }
    if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | (mantissa << 13));
    return __builtin_bit_cast(float, sign | ((exponent + 112) << 23) | (mantissa << 13));
}

static inline float bfloat_to_float(uint16_t b) { return __builtin_bit_cast(float, uint32_t(b) << 16); }

}  // namespace bitnet
