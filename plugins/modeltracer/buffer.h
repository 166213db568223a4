// A growing array of plain values, and rows of any float type as f32 with the largest of them. Free of the C++ runtime.
#pragma once

#include <bitnet_c.h>

#include <bit>
#include <cstdlib>
#include <cstring>

namespace bitnet::modeltracer {

template <class T> struct Buffer {
    T *data = nullptr;
    size_t n = 0, capacity = 0;

    // New elements are zero. False when memory ran out: nothing changed then.
    bool resize(size_t size) {
        if (size > capacity) {
            size_t grown = capacity ? 2 * capacity : 16;
            if (grown < size) grown = size;
            T *moved = static_cast<T *>(realloc(data, grown * sizeof(T)));
            if (!moved) return false;
            data = moved, capacity = grown;
        }
        if (size > n) memset(static_cast<void *>(data + n), 0, (size - n) * sizeof(T));
        n = size;
        return true;
    }
    bool reserve_index(size_t index) { return index < n || resize(index + 1); }
    void clear() { n = 0; }
    void release() {
        free(data);
        *this = Buffer{};
    }
    T &operator[](size_t i) { return data[i]; }
    const T &operator[](size_t i) const { return data[i]; }
};

inline float float_of_half(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
    if (exponent) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
    const float small = float(mantissa) * 0x1p-24f;
    return sign ? -small : small;
}

// Row `row` as f32: in place, or converted into `scratch`. NULL: no float type, or no memory.
inline const float *row_values(const void *data, int32_t dtype, size_t n, Buffer<float> *scratch) {
    if (dtype == BITNET_DTYPE_F32) return static_cast<const float *>(data);
    if (dtype != BITNET_DTYPE_F16 && dtype != BITNET_DTYPE_BF16) return nullptr;
    if (!scratch->resize(n)) return nullptr;
    const uint16_t *from = static_cast<const uint16_t *>(data);
    for (size_t i = 0; i < n; ++i) {
        scratch->data[i] =
            dtype == BITNET_DTYPE_F16 ? float_of_half(from[i]) : std::bit_cast<float>(uint32_t(from[i]) << 16);
    }
    return scratch->data;
}

// Magnitudes order like the bits of their floats, with Inf and then NaN above every number.
constexpr int32_t kLargestFinite = 0x7f7fffff;
inline int32_t magnitude_of(float value) { return int32_t(std::bit_cast<uint32_t>(value) & 0x7fffffff); }
inline int32_t largest_magnitude(const float *values, size_t n) {
    int32_t largest = 0;
    for (size_t i = 0; i < n; ++i) {
        const int32_t magnitude = magnitude_of(values[i]);
        largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
}

}  // namespace bitnet::modeltracer
