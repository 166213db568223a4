// The services with AVX2 and AVX-512. Each function names its instruction set itself: nothing else in the library may
// be compiled for it. The order of all additions is the plain version's, and nothing is contracted, so the bits are
// equal.
#if defined(__x86_64__)

#include <cstdint>
#if defined(__GNUC__) && !defined(__clang__)
// GCC warns of its own AVX-512 intrinsics (bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "plugins/host/row_types.h"

#define AVX2 __attribute__((target("avx2,f16c")))
#define AVX2_INLINE static inline __attribute__((target("avx2,f16c"), always_inline))
#define AVX512 __attribute__((target("avx2,f16c,avx512f,avx512dq")))
#define AVX512_INLINE static inline __attribute__((target("avx2,f16c,avx512f,avx512dq"), always_inline))

namespace bitnet::services {

namespace {

constexpr size_t kStep = 8;  // elements at a time

AVX2_INLINE __m256i load256(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
AVX2_INLINE __m128i load128(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }

// Eight elements of a type: their values, and operations on them. F32 serves every type whose values are floats.
struct Floats {
    using Vector = __m256;
    AVX2_INLINE __m256d low(__m256 v) { return _mm256_cvtps_pd(_mm256_castps256_ps128(v)); }
    AVX2_INLINE __m256d high(__m256 v) { return _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)); }
    AVX2_INLINE __m256 min(__m256 a, __m256 b) { return _mm256_min_ps(a, b); }
    AVX2_INLINE __m256 max(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
    AVX2_INLINE __m256i equal(__m256 a, __m256 b) { return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_EQ_OQ)); }
    AVX2_INLINE __m256 zero() { return _mm256_setzero_ps(); }
    AVX2_INLINE __m256 all(float v) { return _mm256_set1_ps(v); }
    // Bits that order as the magnitudes do.
    AVX2_INLINE __m256i magnitude(__m256 v) {
        return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(int(kAbs)));
    }
    static uint32_t magnitude_of(float v) { return std::bit_cast<uint32_t>(v) & kAbs; }
    static constexpr uint32_t kNotFinite = kInf;
    using Scalar = float;
    AVX2_INLINE void store(float *to, __m256 v) { _mm256_storeu_ps(to, v); }
};
struct F32Avx2 : Floats {
    using Type = F32;
    AVX2_INLINE __m256 load(const uint32_t *p) { return _mm256_castsi256_ps(load256(p)); }
};
struct F16Avx2 : Floats {
    using Type = F16;
    AVX2_INLINE __m256 load(const uint16_t *p) { return _mm256_cvtph_ps(load128(p)); }
};
struct Bf16Avx2 : Floats {
    using Type = Bf16;
    AVX2_INLINE __m256 load(const uint16_t *p) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
    }
};
struct I8Avx2 : Floats {
    using Type = I8;
    AVX2_INLINE __m256 load(const uint8_t *p) {
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))));
    }
};
struct I32Avx2 {
    using Type = I32;
    using Vector = __m256i;
    AVX2_INLINE __m256i load(const uint32_t *p) { return load256(p); }
    AVX2_INLINE __m256d low(__m256i v) { return _mm256_cvtepi32_pd(_mm256_castsi256_si128(v)); }
    AVX2_INLINE __m256d high(__m256i v) { return _mm256_cvtepi32_pd(_mm256_extracti128_si256(v, 1)); }
    AVX2_INLINE __m256i min(__m256i a, __m256i b) { return _mm256_min_epi32(a, b); }
    AVX2_INLINE __m256i max(__m256i a, __m256i b) { return _mm256_max_epi32(a, b); }
    AVX2_INLINE __m256i equal(__m256i a, __m256i b) { return _mm256_cmpeq_epi32(a, b); }
    AVX2_INLINE __m256i zero() { return _mm256_setzero_si256(); }
    AVX2_INLINE __m256i all(int32_t v) { return _mm256_set1_epi32(v); }
    AVX2_INLINE __m256i magnitude(__m256i v) { return _mm256_abs_epi32(v); }
    static uint32_t magnitude_of(int32_t v) { return v < 0 ? 0 - uint32_t(v) : uint32_t(v); }
    static constexpr uint32_t kNotFinite = UINT32_MAX;  // no magnitude
    using Scalar = int32_t;
    AVX2_INLINE void store(int32_t *to, __m256i v) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), v); }
};

// Of an element, in 31 bits below its magnitude, which has 32.
constexpr int kIndexBits = 31;
constexpr uint32_t kIndexMax = (uint32_t(1) << kIndexBits) - 1;

template <class Ops> inline typename Ops::Scalar scalar_at(const typename Ops::Type::Raw *p) {
    typename Ops::Type::Raw raw;
    memcpy(&raw, p, sizeof raw);
    return typename Ops::Scalar(Ops::Type::value(raw));
}

// ---------------------------------------------------------------------------------------------------------------------
// Statistics

// What one pass over a row finds. Lane i of the sums is that of elements i mod 8.
template <class Ops> struct FirstPass {
    double sum[kLanes], squares[kLanes];
    typename Ops::Scalar min, max;
    uint64_t n_zero;
    uint32_t threshold;  // eight elements have at least this magnitude
    bool finite;
};

// The row's rest, of less than eight elements.
template <class Ops> void add_rest(FirstPass<Ops> *pass, const typename Ops::Type::Raw *data, size_t first, size_t n) {
    for (size_t i = first; i < n; ++i) {
        const typename Ops::Scalar v = scalar_at<Ops>(data + i);
        pass->finite = pass->finite && Ops::magnitude_of(v) < Ops::kNotFinite;
        pass->n_zero += v == 0;
        pass->sum[i - first] += double(v);
        pass->squares[i - first] += double(v) * double(v);
        if (v < pass->min) pass->min = v;
        if (v > pass->max) pass->max = v;
    }
}

// The largest magnitudes of sixteen lanes are sixteen elements; so eight elements are at least their eighth, which is
// the smallest of those that fewer than eight are larger than. Nothing here or below branches on what the values are: a
// branch that cannot be foreseen costs as much as ten elements.
AVX2_INLINE void set_threshold(const __m256i lanes[2], uint32_t *threshold, uint32_t *largest) {
    const __m256i flip = _mm256_set1_epi32(int(~kAbs));  // compares are of signed numbers
    const __m256i low = _mm256_xor_si256(lanes[0], flip), high = _mm256_xor_si256(lanes[1], flip);
    int32_t values[16];
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(values), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(values + 8), high);
    __m256i larger_than_low = _mm256_setzero_si256(), larger_than_high = _mm256_setzero_si256();
    int32_t most = values[0], eighth = INT32_MAX;
    for (const int32_t value : values) {
        const __m256i all = _mm256_set1_epi32(value);
        larger_than_low = _mm256_sub_epi32(larger_than_low, _mm256_cmpgt_epi32(all, low));
        larger_than_high = _mm256_sub_epi32(larger_than_high, _mm256_cmpgt_epi32(all, high));
        most = value > most ? value : most;
    }
    const __m256i eight = _mm256_set1_epi32(BITNET_STATS_TOP), none = _mm256_set1_epi32(INT32_MAX);
    const __m256i of_low = _mm256_blendv_epi8(none, low, _mm256_cmpgt_epi32(eight, larger_than_low));
    const __m256i of_high = _mm256_blendv_epi8(none, high, _mm256_cmpgt_epi32(eight, larger_than_high));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(values), _mm256_min_epi32(of_low, of_high));
    for (int i = 0; i < 8; ++i) eighth = values[i] < eighth ? values[i] : eighth;
    *threshold = uint32_t(eighth) ^ ~kAbs;
    *largest = uint32_t(most) ^ ~kAbs;
}

// Where the extremes are: the elements that come into question are few.
template <class Ops> struct Places {
    uint64_t top[BITNET_STATS_TOP];  // the largest first; 0: none yet
    uint32_t threshold;              // below it none comes into the top
    typename Ops::Scalar min, max, min_value, max_value;
    uint32_t min_index, max_index;
    bool has_min, has_max;

    // Orders by magnitude, and an equal one that comes later stays behind.
    static uint64_t key(uint32_t magnitude, uint32_t index) {
        return uint64_t(magnitude) << kIndexBits | (kIndexMax - index);
    }
    static uint32_t index_of(uint64_t key) { return kIndexMax - uint32_t(key & kIndexMax); }

    void look_at(const typename Ops::Type::Raw *data, size_t i) {
        const typename Ops::Scalar v = scalar_at<Ops>(data + i);
        if (!has_min && v == min) has_min = true, min_index = uint32_t(i), min_value = v;
        if (!has_max && v == max) has_max = true, max_index = uint32_t(i), max_value = v;
        uint64_t next = key(Ops::magnitude_of(v), uint32_t(i));
        for (uint64_t &place : top) {
            const uint64_t larger = place > next ? place : next;
            next = place > next ? next : place;
            place = larger;
        }
    }

    void raise_threshold() {
        const uint64_t least = top[BITNET_STATS_TOP - 1];
        const uint32_t next = uint32_t(least >> kIndexBits) + 1;  // an equal one that comes later stays behind
        if (least && next > threshold) threshold = next;
    }
};

// What a second pass looks for, in every lane.
template <class Ops> struct Wanted {
    typename Ops::Vector min, max;
    __m256i threshold, wants_min, wants_max;

    AVX2_INLINE void set(Wanted *wanted, const Places<Ops> &places) {
        wanted->min = Ops::all(places.min), wanted->max = Ops::all(places.max);
        wanted->threshold = _mm256_set1_epi32(int(places.threshold));
        wanted->wants_min = _mm256_set1_epi32(places.has_min ? 0 : -1);
        wanted->wants_max = _mm256_set1_epi32(places.has_max ? 0 : -1);
    }
    // A bit for each of eight elements.
    AVX2_INLINE uint32_t hits(const Wanted &wanted, typename Ops::Vector v) {
        const __m256i magnitude = Ops::magnitude(v);
        const __m256i is_large = _mm256_cmpeq_epi32(_mm256_max_epu32(magnitude, wanted.threshold), magnitude);
        const __m256i is_min = _mm256_and_si256(wanted.wants_min, Ops::equal(v, wanted.min));
        const __m256i is_max = _mm256_and_si256(wanted.wants_max, Ops::equal(v, wanted.max));
        const __m256i hits = _mm256_or_si256(is_large, _mm256_or_si256(is_min, is_max));
        return uint32_t(_mm256_movemask_ps(_mm256_castsi256_ps(hits)));
    }
};

// Eight doubles of AVX2 are two vectors.
namespace avx2 {
struct Eight {
    __m256d low, high;
};
AVX2_INLINE Eight widen(__m256 v) { return {Floats::low(v), Floats::high(v)}; }
AVX2_INLINE Eight widen(__m256i v) { return {I32Avx2::low(v), I32Avx2::high(v)}; }
AVX2_INLINE Eight subtract_all(Eight v, double from_all) {
    const __m256d all = _mm256_set1_pd(from_all);
    return {_mm256_sub_pd(v.low, all), _mm256_sub_pd(v.high, all)};
}
AVX2_INLINE void add(Eight *sum, Eight v) {
    sum->low = _mm256_add_pd(sum->low, v.low);
    sum->high = _mm256_add_pd(sum->high, v.high);
}
AVX2_INLINE void add_square(Eight *sum, Eight v) {
    add(sum, {_mm256_mul_pd(v.low, v.low), _mm256_mul_pd(v.high, v.high)});
}
AVX2_INLINE void store_eight(double *to, Eight v) {
    _mm256_storeu_pd(to, v.low);
    _mm256_storeu_pd(to + 4, v.high);
}
#define TARGET AVX2
#define TARGET_INLINE AVX2_INLINE
#include "plugins/host/stats_x86.inc"
#undef TARGET
#undef TARGET_INLINE
}  // namespace avx2

namespace avx512 {
using Eight = __m512d;
AVX512_INLINE Eight widen(__m256 v) { return _mm512_cvtps_pd(v); }
AVX512_INLINE Eight widen(__m256i v) { return _mm512_cvtepi32_pd(v); }
AVX512_INLINE Eight subtract_all(Eight v, double from_all) { return _mm512_sub_pd(v, _mm512_set1_pd(from_all)); }
AVX512_INLINE void add(Eight *sum, Eight v) { *sum = _mm512_add_pd(*sum, v); }
AVX512_INLINE void add_square(Eight *sum, Eight v) { *sum = _mm512_add_pd(*sum, _mm512_mul_pd(v, v)); }
AVX512_INLINE void store_eight(double *to, Eight v) { _mm512_storeu_pd(to, v); }
#define TARGET AVX512
#define TARGET_INLINE AVX512_INLINE
#include "plugins/host/stats_x86.inc"
#undef TARGET
#undef TARGET_INLINE
}  // namespace avx512

// ---------------------------------------------------------------------------------------------------------------------
// Sketch

// Eight elements, those that are not finite as 0, reordered by `order`, with the signs in the upper bits of `signs`.
AVX2_INLINE void signed_values(__m256 v, __m256i signs, __m256i order, __m256d *low, __m256d *high) {
    const __m256i finite = _mm256_cmpgt_epi32(_mm256_set1_epi32(int(kInf)), Floats::magnitude(v));
    const __m256i bits = _mm256_xor_si256(_mm256_and_si256(_mm256_castps_si256(v), finite), signs);
    v = _mm256_permutevar8x32_ps(_mm256_castsi256_ps(bits), order);
    *low = Floats::low(v);
    *high = Floats::high(v);
}
AVX2_INLINE void signed_values(__m256i v, __m256i signs, __m256i order, __m256d *low, __m256d *high) {
    v = _mm256_permutevar8x32_epi32(v, order);
    signs = _mm256_permutevar8x32_epi32(signs, order);
    const __m256i low_signs = _mm256_slli_epi64(_mm256_cvtepu32_epi64(_mm256_castsi256_si128(signs)), 32);
    const __m256i high_signs = _mm256_slli_epi64(_mm256_cvtepu32_epi64(_mm256_extracti128_si256(signs, 1)), 32);
    *low = _mm256_xor_pd(I32Avx2::low(v), _mm256_castsi256_pd(low_signs));
    *high = _mm256_xor_pd(I32Avx2::high(v), _mm256_castsi256_pd(high_signs));
}

template <class Ops> AVX2 void add_block(double *buckets, const typename Ops::Type::Raw *block, uint64_t b) {
    const uint64_t signs = mix(2 * b);
    const int shuffle = int(mix(2 * b + 1) & 63);
    const __m256i iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i order = _mm256_xor_si256(iota, _mm256_set1_epi32(shuffle & 7));
    const __m256i to_upper = _mm256_sub_epi32(_mm256_set1_epi32(31), iota);
    const __m256i upper = _mm256_set1_epi32(int(~kAbs));
    for (int group = 0; group < kBlock; group += int(kStep)) {
        const __m256i eight = _mm256_set1_epi32(int(uint32_t(signs >> group)));
        const __m256i sign = _mm256_and_si256(_mm256_sllv_epi32(eight, to_upper), upper);
        double *to = buckets + (group ^ (shuffle & ~7));
        __m256d low, high;
        signed_values(Ops::load(block + group), sign, order, &low, &high);
        _mm256_storeu_pd(to, _mm256_add_pd(_mm256_loadu_pd(to), low));
        _mm256_storeu_pd(to + 4, _mm256_add_pd(_mm256_loadu_pd(to + 4), high));
    }
}

template <class Ops> void sketch(Row row, float *out) {
    using Type = typename Ops::Type;
    double buckets[BITNET_SKETCH_BUCKETS] = {};
    const auto *data = static_cast<const typename Type::Raw *>(row.data);
    for (size_t first = 0; first < row.n; first += kBlock) {
        if (row.n - first >= kBlock) {
            add_block<Ops>(buckets, data + first, first / kBlock);
        } else {
            add_block<Ops>(buckets, Block<Type>(row, first).raw, first / kBlock);
        }
    }
    for (int i = 0; i < BITNET_SKETCH_BUCKETS; ++i) out[i] = float(buckets[i]);
}

void avx2_sketch(Row row, float out[BITNET_SKETCH_BUCKETS]) {
    switch (row.dtype) {
    case BITNET_DTYPE_F16: return sketch<F16Avx2>(row, out);
    case BITNET_DTYPE_BF16: return sketch<Bf16Avx2>(row, out);
    case BITNET_DTYPE_I8: return sketch<I8Avx2>(row, out);
    case BITNET_DTYPE_I32: return sketch<I32Avx2>(row, out);
    default: return sketch<F32Avx2>(row, out);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Multiset

// Elements of a row as 64-bit integers.
template <class Raw> AVX2_INLINE __m256i four(const char *p) {
    if (sizeof(Raw) == 2) return _mm256_cvtepu16_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p)));
    return _mm256_cvtepu32_epi64(load128(p));
}
template <class Raw> AVX512 inline __m512i eight(const char *p) {
    if (sizeof(Raw) == 2) return _mm512_cvtepu16_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    return _mm512_cvtepu32_epi64(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
}

// The low 64 bits of a product by a constant.
AVX2_INLINE __m256i times(__m256i v, uint64_t constant) {
    const __m256i low = _mm256_set1_epi64x(int64_t(constant & 0xffffffffu));
    const __m256i high = _mm256_set1_epi64x(int64_t(constant >> 32));
    const __m256i cross = _mm256_add_epi64(_mm256_mul_epu32(_mm256_srli_epi64(v, 32), low), _mm256_mul_epu32(v, high));
    return _mm256_add_epi64(_mm256_mul_epu32(v, low), _mm256_slli_epi64(cross, 32));
}

template <class Raw> AVX2 uint64_t multiset_avx2(Row row) {
    const char *data = static_cast<const char *>(row.data);
    const size_t n_full = row.n - row.n % 4;
    __m256i sums = _mm256_setzero_si256();
    for (size_t i = 0; i < n_full; i += 4) {
        __m256i z = _mm256_add_epi64(four<Raw>(data + i * sizeof(Raw)), _mm256_set1_epi64x(1));
        z = times(z, 0x9E3779B97F4A7C15u);
        z = times(_mm256_xor_si256(z, _mm256_srli_epi64(z, 30)), 0xBF58476D1CE4E5B9u);
        z = times(_mm256_xor_si256(z, _mm256_srli_epi64(z, 27)), 0x94D049BB133111EBu);
        sums = _mm256_add_epi64(sums, _mm256_xor_si256(z, _mm256_srli_epi64(z, 31)));
    }
    uint64_t lanes[4], sum = 0;
    memcpy(lanes, &sums, sizeof lanes);
    for (uint64_t lane : lanes) sum += lane;
    for (size_t i = n_full; i < row.n; ++i) {
        Raw raw;
        memcpy(&raw, data + i * sizeof raw, sizeof raw);
        sum += mix(raw);
    }
    return sum;
}

template <class Raw> AVX512 uint64_t multiset_avx512(Row row) {
    const char *data = static_cast<const char *>(row.data);
    const size_t n_full = row.n - row.n % 8;
    __m512i sums = _mm512_setzero_si512();
    for (size_t i = 0; i < n_full; i += 8) {
        __m512i z = _mm512_add_epi64(eight<Raw>(data + i * sizeof(Raw)), _mm512_set1_epi64(1));
        z = _mm512_mullo_epi64(z, _mm512_set1_epi64(int64_t(0x9E3779B97F4A7C15u)));
        z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 30)),
                               _mm512_set1_epi64(int64_t(0xBF58476D1CE4E5B9u)));
        z = _mm512_mullo_epi64(_mm512_xor_si512(z, _mm512_srli_epi64(z, 27)),
                               _mm512_set1_epi64(int64_t(0x94D049BB133111EBu)));
        sums = _mm512_add_epi64(sums, _mm512_xor_si512(z, _mm512_srli_epi64(z, 31)));
    }
    uint64_t lanes[8], sum = 0;
    memcpy(lanes, &sums, sizeof lanes);
    for (uint64_t lane : lanes) sum += lane;
    for (size_t i = n_full; i < row.n; ++i) {
        Raw raw;
        memcpy(&raw, data + i * sizeof raw, sizeof raw);
        sum += mix(raw);
    }
    return sum;
}

uint64_t avx2_multiset(Row row) {
    return dtype_bytes(row.dtype) == 2 ? multiset_avx2<uint16_t>(row) : multiset_avx2<uint32_t>(row);
}
uint64_t avx512_multiset(Row row) {
    return dtype_bytes(row.dtype) == 2 ? multiset_avx512<uint16_t>(row) : multiset_avx512<uint32_t>(row);
}

}  // namespace

const Kernels avx2_kernels = {official_blake3, avx2_multiset, avx2::row_stats_of, avx2_sketch};
const Kernels avx512_kernels = {avx512_blake3, avx512_multiset, avx512::row_stats_of, avx2_sketch};

}  // namespace bitnet::services

#endif
