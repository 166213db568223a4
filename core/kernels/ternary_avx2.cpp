// Ternary product with AVX2: unsigned codes times signed activations by vpmaddubsw. A pair sum is at most 2 * 2 * 127 =
// 508, so 64 of them fit an int16.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx2 {

static constexpr int prefetch_bytes = 2048;  // a row is read once from memory: ask for it well ahead

static __m256i load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }

static int32_t sum_of(__m256i v) {
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc) {
    const __m256i three = _mm256_set1_epi8(3), ones = _mm256_set1_epi16(1);
    const int n_groups = n_in / 128;
    constexpr int groups_per_word = 16;  // 16 groups * 4 fields * 508 = 32512
    for (int r = 0; r < n_rows; ++r) {
        const uint8_t *row = codes + size_t(r) * (size_t(n_in) / 4);
        __m256i total = _mm256_setzero_si256();
        for (int g0 = 0; g0 < n_groups; g0 += groups_per_word) {
            const int g1 = g0 + groups_per_word < n_groups ? g0 + groups_per_word : n_groups;
            __m256i words = _mm256_setzero_si256();
            for (int g = g0; g < g1; ++g) {
                const __m256i b = load(row + g * 32);
                _mm_prefetch(reinterpret_cast<const char *>(row + g * 32 + prefetch_bytes), _MM_HINT_T0);
                const int8_t *v = x + g * 128;
                const __m256i p0 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(b, 6), three), load(v));
                const __m256i p1 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(b, 4), three), load(v + 32));
                const __m256i p2 = _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(b, 2), three), load(v + 64));
                const __m256i p3 = _mm256_maddubs_epi16(_mm256_and_si256(b, three), load(v + 96));
                words = _mm256_add_epi16(words, _mm256_add_epi16(_mm256_add_epi16(p0, p1), _mm256_add_epi16(p2, p3)));
            }
            total = _mm256_add_epi32(total, _mm256_madd_epi16(words, ones));
        }
        acc[r] = sum_of(total) - x_sum;
    }
}

static void unpack_row(const uint8_t *row, int n_in, uint8_t *out) {
    const __m256i three = _mm256_set1_epi8(3);
    for (int g = 0; g < n_in / 128; ++g) {
        const __m256i b = load(row + g * 32);
        __m256i *o = reinterpret_cast<__m256i *>(out + g * 128);
        _mm256_storeu_si256(o, _mm256_and_si256(_mm256_srli_epi16(b, 6), three));
        _mm256_storeu_si256(o + 1, _mm256_and_si256(_mm256_srli_epi16(b, 4), three));
        _mm256_storeu_si256(o + 2, _mm256_and_si256(_mm256_srli_epi16(b, 2), three));
        _mm256_storeu_si256(o + 3, _mm256_and_si256(b, three));
    }
}

// A tile of R unpacked rows by T tokens; the accumulators stay in registers.
template <int R, int T>
static void tile(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int32_t *acc,
                 size_t acc_stride) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i total[R][T];
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) total[r][t] = _mm256_setzero_si256();
    constexpr int block = 64 * 32;  // 64 pair sums fit an int16
    for (int i0 = 0; i0 < n_in; i0 += block) {
        const int i1 = i0 + block < n_in ? i0 + block : n_in;
        __m256i words[R][T];
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t) words[r][t] = _mm256_setzero_si256();
        for (int i = i0; i < i1; i += 32) {
            __m256i v[T];
            for (int t = 0; t < T; ++t) v[t] = load(x + size_t(t) * x_stride + i);
            for (int r = 0; r < R; ++r) {
                const __m256i c = load(w + size_t(r) * size_t(n_in) + i);
                for (int t = 0; t < T; ++t) words[r][t] = _mm256_add_epi16(words[r][t], _mm256_maddubs_epi16(c, v[t]));
            }
        }
        for (int r = 0; r < R; ++r)
            for (int t = 0; t < T; ++t)
                total[r][t] = _mm256_add_epi32(total[r][t], _mm256_madd_epi16(words[r][t], ones));
    }
    for (int r = 0; r < R; ++r)
        for (int t = 0; t < T; ++t) acc[size_t(t) * acc_stride + r] = sum_of(total[r][t]) - x_sums[t];
}

template <int R>
static void tile_rows(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int n_tokens,
                      int32_t *acc, size_t acc_stride) {
    int t = 0;
    for (; t + 2 <= n_tokens; t += 2)
        tile<R, 2>(w, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, acc + size_t(t) * acc_stride, acc_stride);
    if (t < n_tokens)
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

}  // namespace bitnet::avx2
