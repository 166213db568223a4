// Sums over 5-bit codes with AVX2: two looks-up of a nibble and a blend by the fifth bit. A level is at most 127, so
// the two products of vpmaddubsw fit an int16: 2 * 127 * 127 = 32258.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx2 {

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

static inline __m256i load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }

static inline int32_t sum_of(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

// Byte j has its top bit set where bit j is.
static inline __m256i spread(uint32_t bits) {
    const __m256i byte_of = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit_of = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    const __m256i v = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(int32_t(bits)), byte_of), bit_of);
    return _mm256_cmpeq_epi8(v, bit_of);
}

static inline void add(__m256i &sum, __m256i levels, const int8_t *x) {
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(levels, load(x)), _mm256_set1_epi16(1)));
}

template <bool Fifth>
static void sum_rows(const uint8_t *nibbles, const uint64_t *bits, int n_rows, int n, const uint8_t *levels,
                     const int8_t *x_high, const int8_t *x_low, int32_t *high, int32_t *low) {
    const __m256i low_half = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(levels)));
    const __m256i high_half =
        _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i *>(levels + 16)));
    const __m256i fifteen = _mm256_set1_epi8(15);
    const auto look_up = [&](__m256i nibble, uint32_t fifth) {
        if constexpr (!Fifth) return _mm256_shuffle_epi8(low_half, nibble);
        return _mm256_blendv_epi8(_mm256_shuffle_epi8(low_half, nibble), _mm256_shuffle_epi8(high_half, nibble),
                                  spread(fifth));
    };
    for (int r = 0; r < n_rows; ++r) {
        __m256i h = _mm256_setzero_si256(), l = h;
        for (int i = 0; i < n; i += 128, nibbles += 64) {
            _mm_prefetch(reinterpret_cast<const char *>(nibbles) + prefetch_bytes, _MM_HINT_T0);
            uint64_t fifth[2] = {};
            if constexpr (Fifth) {
                if (i % 512 == 0) _mm_prefetch(reinterpret_cast<const char *>(bits) + prefetch_bytes / 4, _MM_HINT_T0);
                fifth[0] = bits[0];
                fifth[1] = bits[1];
                bits += 2;
            }
            for (int half = 0; half < 2; ++half) {
                const __m256i b = load(nibbles + 32 * half);
                const __m256i v0 = look_up(_mm256_and_si256(b, fifteen), uint32_t(fifth[0] >> (32 * half)));
                const __m256i v1 =
                    look_up(_mm256_and_si256(_mm256_srli_epi16(b, 4), fifteen), uint32_t(fifth[1] >> (32 * half)));
                add(h, v0, x_high + i + 32 * half);
                add(l, v0, x_low + i + 32 * half);
                add(h, v1, x_high + i + 64 + 32 * half);
                add(l, v1, x_low + i + 64 + 32 * half);
            }
        }
        high[r] = sum_of(h);
        low[r] = sum_of(l);
    }
}

void compact_rows(const uint8_t *nibbles, const uint64_t *bits, int n_rows, int n, const uint8_t *levels,
                  const int8_t *x_high, const int8_t *x_low, int32_t *high, int32_t *low) {
    const auto sum = bits ? sum_rows<true> : sum_rows<false>;
    sum(nibbles, bits, n_rows, n, levels, x_high, x_low, high, low);
}

}  // namespace bitnet::avx2
