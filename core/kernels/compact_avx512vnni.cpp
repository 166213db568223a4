// Sums over 5-bit codes with AVX-512: vpshufb looks a nibble up in half of the levels, the fifth bit says in which.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

// In assembly: see ternary_avx512vnni.cpp.
static inline void dot_add(__m512i &sum, __m512i levels, const int8_t *x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(levels), "m"(*reinterpret_cast<const __m512i_u *>(x)));
}

static inline __m512i look_up(__m512i low_half, __m512i high_half, __m512i nibbles, __mmask64 fifth) {
    return _mm512_mask_shuffle_epi8(_mm512_shuffle_epi8(low_half, nibbles), fifth, high_half, nibbles);
}

template <bool Fifth>
static void sum_rows(const uint8_t *nibbles, const uint64_t *bits, int n_rows, int n, const uint8_t *levels,
                     const int8_t *x_high, const int8_t *x_low, int32_t *high, int32_t *low) {
    const __m512i low_half = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(levels)));
    const __m512i high_half = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i *>(levels + 16)));
    const __m512i fifteen = _mm512_set1_epi8(15);
    for (int r = 0; r < n_rows; ++r) {
        __m512i h0 = _mm512_setzero_si512(), h1 = h0, l0 = h0, l1 = h0;
        for (int i = 0; i < n; i += 128, nibbles += 64) {
            _mm_prefetch(reinterpret_cast<const char *>(nibbles) + prefetch_bytes, _MM_HINT_T0);
            __m512i b = _mm512_loadu_si512(nibbles);
            asm("" : "+v"(b));  // GCC 12 loads it once for each use
            const __m512i first = _mm512_and_si512(b, fifteen),
                          second = _mm512_and_si512(_mm512_srli_epi16(b, 4), fifteen);
            __m512i v0, v1;
            if constexpr (Fifth) {
                if (i % 512 == 0) _mm_prefetch(reinterpret_cast<const char *>(bits) + prefetch_bytes / 4, _MM_HINT_T0);
                v0 = look_up(low_half, high_half, first, bits[0]);
                v1 = look_up(low_half, high_half, second, bits[1]);
                bits += 2;
            } else {
                v0 = _mm512_shuffle_epi8(low_half, first);
                v1 = _mm512_shuffle_epi8(low_half, second);
            }
            dot_add(h0, v0, x_high + i);
            dot_add(l0, v0, x_low + i);
            dot_add(h1, v1, x_high + i + 64);
            dot_add(l1, v1, x_low + i + 64);
        }
        high[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(h0, h1));
        low[r] = _mm512_reduce_add_epi32(_mm512_add_epi32(l0, l1));
    }
}

void compact_rows(const uint8_t *nibbles, const uint64_t *bits, int n_rows, int n, const uint8_t *levels,
                  const int8_t *x_high, const int8_t *x_low, int32_t *high, int32_t *low) {
    const auto sum = bits ? sum_rows<true> : sum_rows<false>;
    sum(nibbles, bits, n_rows, n, levels, x_high, x_low, high, low);
}

}  // namespace bitnet::avx512vnni
