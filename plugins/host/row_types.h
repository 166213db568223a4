// What the versions of the services for different CPUs share. Internal to plugins/host.
#pragma once

#include <bit>
#include <cmath>
#include <cstring>

#include "plugins/host/services.h"

namespace bitnet::services {

constexpr int kBlock = 64;
constexpr uint32_t kAbs = 0x7fffffffu, kInf = 0x7f800000u;

constexpr uint64_t mix(uint64_t x) {
    uint64_t z = (x + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

inline float f16_value(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000u) << 16;
    const uint32_t magnitude = uint32_t(h & 0x7fffu) << 13;
    const uint32_t exponent = magnitude & (0x7c00u << 13);
    // Rebase the exponent; Inf and NaN go up once more, subnormals are normalised by a subtraction.
    if (exponent == 0x7c00u << 13) return std::bit_cast<float>(sign | (magnitude + (uint32_t(255 - 31) << 23)));
    if (exponent == 0) {
        const float tiny = std::bit_cast<float>(magnitude + (113u << 23)) - std::bit_cast<float>(113u << 23);
        return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(tiny));
    }
    return std::bit_cast<float>(sign | (magnitude + (112u << 23)));
}

// Raw: an element's bits. Value: holds every value of the dtype exactly.
struct F32 {
    using Raw = uint32_t;
    using Value = float;
    static float value(Raw bits) { return std::bit_cast<float>(bits); }
};
struct F16 {
    using Raw = uint16_t;
    using Value = float;
    static float value(Raw bits) { return f16_value(bits); }
};
struct Bf16 {
    using Raw = uint16_t;
    using Value = float;
    static float value(Raw bits) { return std::bit_cast<float>(uint32_t(bits) << 16); }
};
struct I8 {
    using Raw = uint8_t;
    using Value = float;
    static float value(Raw bits) { return float(int8_t(bits)); }
};
struct I32 {
    using Raw = uint32_t;
    using Value = double;
    static double value(Raw bits) { return double(int32_t(bits)); }
};

template <class Type> struct Block {
    typename Type::Raw raw[kBlock];
    int count;

    // Elements past the end of the row are zero bits.
    Block(Row row, size_t first) {
        const char *from = static_cast<const char *>(row.data) + first * sizeof raw[0];
        if (row.n - first >= kBlock) {
            memcpy(raw, from, sizeof raw);
            count = kBlock;
        } else {
            count = int(row.n - first);
            memset(raw, 0, sizeof raw);
            memcpy(raw, from, size_t(count) * sizeof raw[0]);
        }
    }

    void values(typename Type::Value *out) const {
        for (int i = 0; i < kBlock; ++i) out[i] = Type::value(raw[i]);
    }
};

constexpr int kLanes = 8;

// The largest by magnitude so far, largest first; an equal one that comes later stays behind.
struct Top {
    uint32_t n = 0;
    double magnitude[BITNET_STATS_TOP];
    uint32_t index[BITNET_STATS_TOP];
    float value[BITNET_STATS_TOP];
    double threshold = -1;  // what an element must exceed to get in; -1 while there is room

    void offer(uint32_t i, double v) {
        const double m = std::fabs(v);
        if (!(m > threshold)) return;
        uint32_t at = n < BITNET_STATS_TOP ? n++ : BITNET_STATS_TOP - 1;
        for (; at > 0 && magnitude[at - 1] < m; --at) {
            magnitude[at] = magnitude[at - 1];
            index[at] = index[at - 1];
            value[at] = value[at - 1];
        }
        magnitude[at] = m;
        index[at] = i;
        value[at] = float(v);
        if (n == BITNET_STATS_TOP) threshold = magnitude[BITNET_STATS_TOP - 1];
    }
};

inline bool is_finite(float v) { return (std::bit_cast<uint32_t>(v) & kAbs) < kInf; }
inline bool is_finite(double) { return true; }  // integers

inline double combine(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

// What is left to say of a row when its sums, counts and indexes are known. Squares and deviations: summed.
inline void finish_stats(bitnet_stats_t *out, const Top &top, double sum, double squares, double deviations) {
    out->n_top = top.n;
    memcpy(out->top_index, top.index, top.n * sizeof top.index[0]);
    memcpy(out->top_value, top.value, top.n * sizeof top.value[0]);
    const double n = double(out->n - out->n_nan - out->n_inf);
    if (n == 0) return;  // the rest stays 0
    out->mean = sum / n;
    out->rms = std::sqrt(squares / n);
    out->l2 = std::sqrt(squares);
    out->std = std::sqrt(deviations / n);
    const float low = std::fabs(out->min), high = std::fabs(out->max);
    out->absmax = low > high ? low : high;
}

// The services for one kind of CPU; all give the same bits. `stats` may decline a row, which the plain one then takes.
struct Kernels {
    void (*blake3)(const HashJob *jobs, size_t n);
    uint64_t (*multiset)(Row row);
    bool (*stats)(Row row, bitnet_stats_t *out);
    void (*sketch)(Row row, float out[BITNET_SKETCH_BUCKETS]);
};
extern const Kernels plain_kernels;
void official_blake3(const HashJob *jobs, size_t n);
#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx512_kernels;
void avx512_blake3(const HashJob *jobs, size_t n);
#endif

}  // namespace bitnet::services
