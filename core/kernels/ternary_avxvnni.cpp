// Ternary product of one token with AVX-VNNI: vpdpbusd multiplies unsigned codes with signed activations and adds four
// products into an int32. The rest of this instruction set is AVX2's; several tokens too, since its tables are faster.
//
// tests/core compiles this file a second time, as avxvnni_evex: the same instruction in the encoding of AVX-512, which
// more CPUs have.
#ifndef BITNET_ISA
#define BITNET_ISA avxvnni
#define BITNET_VPDPBUSD "%{vex%} vpdpbusd"
#else
#define BITNET_VPDPBUSD "vpdpbusd"
#endif
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::BITNET_ISA {

static __m256i load32(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
static __m256i load32_aligned(const void *p) { return _mm256_load_si256(static_cast<const __m256i *>(p)); }
static void store32(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }

// sum += codes * x in fours. In assembly: GCC 12 copies the accumulator of the intrinsic to another register and to
// memory at every step.
static inline void dot_add(__m256i &sum, __m256i codes, __m256i x) {
    asm(BITNET_VPDPBUSD " %2, %1, %0" : "+x"(sum) : "x"(codes), "xm"(x));
}

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

// The fields are masked, not shifted down: field k counts 4^(3 - k) times, and the total is divided, exactly.
template <int R>
static inline void row_sums(const uint8_t *rows, size_t row_bytes, int n_groups, const int8_t *x, __m256i (&total)[R]) {
    __m256i s[R][4];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) s[r][k] = _mm256_setzero_si256();
    const uint8_t *ahead = rows + prefetch_bytes;  // in the order in which the lines of the rows lie in memory
    for (int g = 0; g < n_groups; ++g, x += 128, ahead += 32 * R) {
        _mm_prefetch(reinterpret_cast<const char *>(ahead), _MM_HINT_T0);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const __m256i b = load32(rows + size_t(r) * row_bytes + size_t(g) * 32);
            dot_add(s[r][0], _mm256_and_si256(b, _mm256_set1_epi8(char(0xc0))), load32_aligned(x));
            dot_add(s[r][1], _mm256_and_si256(b, _mm256_set1_epi8(0x30)), load32_aligned(x + 32));
            dot_add(s[r][2], _mm256_and_si256(b, _mm256_set1_epi8(0x0c)), load32_aligned(x + 64));
            dot_add(s[r][3], _mm256_and_si256(b, _mm256_set1_epi8(0x03)), load32_aligned(x + 96));
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
        total[r] = _mm256_add_epi32(_mm256_add_epi32(_mm256_srai_epi32(s[r][0], 6), _mm256_srai_epi32(s[r][1], 4)),
                                    _mm256_add_epi32(_mm256_srai_epi32(s[r][2], 2), s[r][3]));
}

static inline __m128i halves(__m256i v) {
    return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

// The sum of each.
static inline __m128i sum_each(const __m256i (&s)[2]) {
    const __m128i a = halves(s[0]), b = halves(s[1]);
    const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    return _mm_add_epi32(ab, _mm_unpackhi_epi64(ab, ab));
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                  uint8_t *scratch) {
    int8_t *aligned = reinterpret_cast<int8_t *>(scratch);
    for (int i = 0; i < n_in; i += 32) store32(aligned + i, load32(x + i));
    const size_t row_bytes = size_t(n_in) / 4;
    const __m128i subtract = _mm_set1_epi32(x_sum);
    int r = 0;
    for (; r + 2 <= n_rows; r += 2) {
        __m256i s[2];
        row_sums<2>(codes + size_t(r) * row_bytes, row_bytes, n_in / 128, aligned, s);
        _mm_storel_epi64(reinterpret_cast<__m128i *>(acc + r), _mm_sub_epi32(sum_each(s), subtract));
    }
    if (r < n_rows) {
        __m256i s[1];
        row_sums<1>(codes + size_t(r) * row_bytes, row_bytes, n_in / 128, aligned, s);
        acc[r] = _mm_cvtsi128_si32(_mm_sub_epi32(sum_each({s[0], s[0]}), subtract));
    }
}

}  // namespace bitnet::BITNET_ISA
