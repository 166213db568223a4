// Ternary product with AVX-512 VNNI: vpdpbusd multiplies unsigned codes with signed activations and adds four products
// into an int32.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

static constexpr int prefetch_bytes = 2048;  // a row is read once from memory: ask for it well ahead

static __m256i load32(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
static __m512i load64(const void *p) { return _mm512_loadu_si512(p); }

// Field k of two neighbouring groups meets elements 32k.. of each: 128 apart.
static __m512i load_pair(const int8_t *x) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load32(x)), load32(x + 128), 1);
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc) {
    const __m512i three = _mm512_set1_epi8(3);
    const int n_groups = n_in / 128;
    for (int r = 0; r < n_rows; ++r) {
        const uint8_t *row = codes + size_t(r) * (size_t(n_in) / 4);
        __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
        int g = 0;
        for (; g + 2 <= n_groups; g += 2) {
            const __m512i b = load64(row + g * 32);
            _mm_prefetch(reinterpret_cast<const char *>(row + g * 32 + prefetch_bytes), _MM_HINT_T0);
            const int8_t *v = x + g * 128;
            s0 = _mm512_dpbusd_epi32(s0, _mm512_and_si512(_mm512_srli_epi16(b, 6), three), load_pair(v));
            s1 = _mm512_dpbusd_epi32(s1, _mm512_and_si512(_mm512_srli_epi16(b, 4), three), load_pair(v + 32));
            s2 = _mm512_dpbusd_epi32(s2, _mm512_and_si512(_mm512_srli_epi16(b, 2), three), load_pair(v + 64));
            s3 = _mm512_dpbusd_epi32(s3, _mm512_and_si512(b, three), load_pair(v + 96));
        }
        __m512i total = _mm512_add_epi32(_mm512_add_epi32(s0, s1), _mm512_add_epi32(s2, s3));
        if (g < n_groups) {
            const __m256i b = load32(row + g * 32), low3 = _mm256_set1_epi8(3);
            const int8_t *v = x + g * 128;
            __m256i t = _mm256_setzero_si256();
            t = _mm256_dpbusd_epi32(t, _mm256_and_si256(_mm256_srli_epi16(b, 6), low3), load32(v));
            t = _mm256_dpbusd_epi32(t, _mm256_and_si256(_mm256_srli_epi16(b, 4), low3), load32(v + 32));
            t = _mm256_dpbusd_epi32(t, _mm256_and_si256(_mm256_srli_epi16(b, 2), low3), load32(v + 64));
            t = _mm256_dpbusd_epi32(t, _mm256_and_si256(b, low3), load32(v + 96));
            total = _mm512_add_epi32(total, _mm512_zextsi256_si512(t));
        }
        acc[r] = _mm512_reduce_add_epi32(total) - x_sum;
    }
}

static void unpack_row(const uint8_t *row, int n_in, uint8_t *out) {
    const __m256i three = _mm256_set1_epi8(3);
    for (int g = 0; g < n_in / 128; ++g) {
        const __m256i b = load32(row + g * 32);
        __m256i *o = reinterpret_cast<__m256i *>(out + g * 128);
        _mm256_storeu_si256(o, _mm256_and_si256(_mm256_srli_epi16(b, 6), three));
        _mm256_storeu_si256(o + 1, _mm256_and_si256(_mm256_srli_epi16(b, 4), three));
        _mm256_storeu_si256(o + 2, _mm256_and_si256(_mm256_srli_epi16(b, 2), three));
        _mm256_storeu_si256(o + 3, _mm256_and_si256(b, three));
    }
}

// A tile of R unpacked rows by T tokens; the accumulators stay in registers. n_in is a multiple of 128.
template <int R, int T>
static void tile(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int32_t *acc,
                 size_t acc_stride) {
    __m512i total[R][T];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) total[r][t] = _mm512_setzero_si512();
    for (int i = 0; i < n_in; i += 64) {
        __m512i v[T];
        for (int t = 0; t < T; ++t) v[t] = load64(x + size_t(t) * x_stride + i);
        for (int r = 0; r < R; ++r) {
            const __m512i c = load64(w + size_t(r) * size_t(n_in) + i);
            for (int t = 0; t < T; ++t) total[r][t] = _mm512_dpbusd_epi32(total[r][t], c, v[t]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) acc[size_t(t) * acc_stride + r] = _mm512_reduce_add_epi32(total[r][t]) - x_sums[t];
}

template <int R>
static void tile_rows(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int n_tokens,
                      int32_t *acc, size_t acc_stride) {
    int t = 0;
    for (; t + 4 <= n_tokens; t += 4)
        tile<R, 4>(w, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, acc + size_t(t) * acc_stride, acc_stride);
    for (; t < n_tokens; ++t)
        tile<R, 1>(w, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, acc + size_t(t) * acc_stride, acc_stride);
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        for (int k = 0; k < 4; ++k)
            unpack_row(codes + size_t(r + k) * (size_t(n_in) / 4), n_in, scratch + size_t(k) * size_t(n_in));
        tile_rows<4>(scratch, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride);
    }
    for (; r < n_rows; ++r) {
        unpack_row(codes + size_t(r) * (size_t(n_in) / 4), n_in, scratch);
        tile_rows<1>(scratch, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride);
    }
}

}  // namespace bitnet::avx512vnni
