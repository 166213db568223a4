// Ternary product with AVX2: vpmaddubsw multiplies unsigned codes with signed activations and adds two products into an
// int16. Sums stay in int16 for as long as they cannot overflow.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include "core/kernels/interleave_avx2.h"
#include <immintrin.h>

namespace bitnet::avx2 {

static __m256i load32(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
static __m256i load32_aligned(const void *p) { return _mm256_load_si256(static_cast<const __m256i *>(p)); }
static void store32(void *p, __m256i v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }

// sum += codes * x in pairs, int16. In assembly: GCC 12 puts the products of a whole step before their additions, more
// than there are registers, and the sums go to memory.
static inline void dot_add(__m256i &sum, __m256i codes, __m256i x) {
    __m256i products;
    asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(codes), "xm"(x));
}

// ---- one token --------------------------------------------------------------------------------------------------

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

// Two of the four fields are masked where they stand, which multiplies them by 4: `fours` holds 4 times its sum. A pair
// of products is at most 4 * 2 * 2 * 127 = 2032, two are added a group: 8 groups fit an int16.
static constexpr int groups_per_word = 8;
struct Words {
    __m256i ones, fours;
};

static inline void add_group(Words &s, __m256i b, const int8_t *x) {
    const __m256i low = _mm256_set1_epi8(0x03), high = _mm256_set1_epi8(0x0c);
    const __m256i h = _mm256_srli_epi16(b, 4);
    dot_add(s.fours, _mm256_and_si256(h, high), load32_aligned(x));
    dot_add(s.ones, _mm256_and_si256(h, low), load32_aligned(x + 32));
    dot_add(s.fours, _mm256_and_si256(b, high), load32_aligned(x + 64));
    dot_add(s.ones, _mm256_and_si256(b, low), load32_aligned(x + 96));
}

// 4 times the sums of R rows.
template <int R>
static inline void row_sums(const uint8_t *rows, size_t row_bytes, int n_groups, const int8_t *x, __m256i (&total)[R]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) total[r] = _mm256_setzero_si256();
    const uint8_t *ahead = rows + prefetch_bytes;  // in the order in which the lines of the rows lie in memory
    for (int g = 0; g < n_groups;) {
        const int end = g + groups_per_word < n_groups ? g + groups_per_word : n_groups;
        Words s[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) s[r].ones = s[r].fours = _mm256_setzero_si256();
        for (; g < end; ++g, ahead += 32 * R) {
            _mm_prefetch(reinterpret_cast<const char *>(ahead), _MM_HINT_T0);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r)
                add_group(s[r], load32(rows + size_t(r) * row_bytes + size_t(g) * 32), x + g * 128);
        }
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
            total[r] =
                _mm256_add_epi32(total[r], _mm256_add_epi32(_mm256_madd_epi16(s[r].ones, _mm256_set1_epi16(4)),
                                                            _mm256_madd_epi16(s[r].fours, _mm256_set1_epi16(1))));
    }
}

static inline __m128i halves(__m256i v) {
    return _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

// A quarter of the sum of each.
static inline __m128i sum_each(const __m256i (&s)[2]) {
    const __m128i a = halves(s[0]), b = halves(s[1]);
    const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
    return _mm_srai_epi32(_mm_add_epi32(ab, _mm_unpackhi_epi64(ab, ab)), 2);
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

// ---- several tokens, rows interleaved (interleave_avx2.h) -------------------------------------------------------

// 8 V rows by T tokens; the sums of a step stay in int16 and in registers. A pair of products is at most 2 * 2 * 127 =
// 508: 64 steps, 256 elements, fit.
template <int V, int T>
static void tile(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int n_rows,
                 int32_t *acc, size_t acc_stride) {
    __m256i total[V][T];
    for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) total[v][t] = _mm256_set1_epi32(-x_sums[t]);
    for (int i = 0; i < n_in;) {
        const int end = i + 256 < n_in ? i + 256 : n_in;
        __m256i sum[V][T];
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) sum[v][t] = _mm256_setzero_si256();
        for (; i < end; i += 4, w += 32 * V) {
            __m256i c[V];
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) c[v] = load32_aligned(w + 32 * v);
#pragma GCC unroll 8
            for (int t = 0; t < T; ++t) {
                int32_t four;
                __builtin_memcpy(&four, x + size_t(t) * x_stride + i, 4);
                const __m256i q = _mm256_set1_epi32(four);
#pragma GCC unroll 8
                for (int v = 0; v < V; ++v) dot_add(sum[v][t], c[v], q);
            }
        }
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v)
                total[v][t] = _mm256_add_epi32(total[v][t], _mm256_madd_epi16(sum[v][t], _mm256_set1_epi16(1)));
    }
    for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) {
            int32_t *to = acc + size_t(t) * acc_stride + 8 * v;
            int32_t lane[8];
            store32(n_rows >= 8 * v + 8 ? to : lane, total[v][t]);
            for (int k = 8 * v; n_rows < 8 * v + 8 && k < n_rows; ++k) to[k - 8 * v] = lane[k - 8 * v];
        }
}

template <int V, int T>
static void rest(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int n_tokens,
                 int n_rows, int32_t *acc, size_t acc_stride) {
    if constexpr (T > 0) {
        if (n_tokens == T) return tile<V, T>(w, n_in, x, x_stride, x_sums, n_rows, acc, acc_stride);
        rest<V, T - 1>(w, n_in, x, x_stride, x_sums, n_tokens, n_rows, acc, acc_stride);
    }
}

static constexpr int tile_tokens = 6;  // 2 x 6 sums, 2 registers of codes, 1 of activations, 1 of products

// V = (n_rows + 7) / 8.
template <int V>
static void block(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                  int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    const size_t row_bytes = size_t(n_in) / 4;
    for (int v = 0; v < V; ++v)
        interleave_8(codes + size_t(8 * v) * row_bytes, row_bytes, n_rows - 1 - 8 * v, n_in / 128, scratch + 32 * v,
                     32 * V);
    int t = 0;
    for (; t + tile_tokens <= n_tokens; t += tile_tokens)
        tile<V, tile_tokens>(scratch, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, n_rows,
                             acc + size_t(t) * acc_stride, acc_stride);
    rest<V, tile_tokens - 1>(scratch, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, n_tokens - t, n_rows,
                             acc + size_t(t) * acc_stride, acc_stride);
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    for (int r = 0; r < n_rows; r += 16) {
        const int n = n_rows - r < 16 ? n_rows - r : 16;
        const uint8_t *c = codes + size_t(r) * (size_t(n_in) / 4);
        if (n > 8)
            block<2>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch);
        else
            block<1>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch);
    }
}

}  // namespace bitnet::avx2
