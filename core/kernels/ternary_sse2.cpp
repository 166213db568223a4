// Ternary product with SSE2: there are no products of bytes, so codes and activations become int16 and pmaddwd
// multiplies eight and adds in pairs into int32.
#define BITNET_ISA sse2
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::sse2 {

static __m128i load16(const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); }
static __m128i load16_aligned(const void *p) { return _mm_load_si128(static_cast<const __m128i *>(p)); }
static void store16(void *p, __m128i v) { _mm_storeu_si128(static_cast<__m128i *>(p), v); }
static void store16_aligned(void *p, __m128i v) { _mm_store_si128(static_cast<__m128i *>(p), v); }

// sum += a * b in pairs. In assembly: GCC 12 puts many products before their additions, more than there are registers.
static inline void dot_add(__m128i &sum, __m128i a, __m128i b) {
    asm("pmaddwd %2, %1\n\tpaddd %1, %0" : "+x"(sum), "+x"(a) : "xm"(b));
}

// ---- one token --------------------------------------------------------------------------------------------------

// Bytes ahead that rows are asked for, into the second cache: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

// x as int16, in the order in which 16 bytes of codes meet it: of each field the even bytes', then the odd bytes'. The
// codes of field k stay where they are in their byte, 4^(3 - k) times too large; x times 4^k makes that 64 for all.
static void arrange(const int8_t *x, int n_groups, int8_t *out) {
    for (int g = 0; g < n_groups; ++g)
        for (int half = 0; half < 2; ++half)
            for (int k = 0; k < 4; ++k, out += 32) {
                const __m128i v = load16(x + g * 128 + k * 32 + half * 16);
                store16_aligned(out, _mm_slli_epi16(_mm_srai_epi16(_mm_slli_epi16(v, 8), 8), 2 * k));
                store16_aligned(out + 16, _mm_slli_epi16(_mm_srai_epi16(v, 8), 2 * k));
            }
}

static inline void add_field(__m128i &sum, __m128i b, int mask, const int8_t *x) {
    dot_add(sum, _mm_and_si128(b, _mm_set1_epi16(short(mask))), load16_aligned(x));
}

static int32_t row_sum(const uint8_t *row, int n_groups, const int8_t *x) {
    __m128i total = _mm_setzero_si128();
    constexpr int groups_per_total = 4096;  // a group adds at most 16 * 2 * 2 * 127 * 64 to a lane: 4096 fit an int32
    for (int g = 0; g < n_groups;) {
        const int end = g + groups_per_total < n_groups ? g + groups_per_total : n_groups;
        __m128i even = _mm_setzero_si128(), odd = even;
        for (; g < end; ++g, x += 256) {
            _mm_prefetch(reinterpret_cast<const char *>(row + g * 32 + prefetch_bytes), _MM_HINT_T1);
#pragma GCC unroll 2
            for (int half = 0; half < 2; ++half) {
                const __m128i b = load16(row + g * 32 + half * 16), c = _mm_srli_epi16(b, 8);
                const int8_t *v = x + half * 128;
                add_field(even, b, 0xc0, v);
                add_field(odd, c, 0xc0, v + 16);
                add_field(even, b, 0x30, v + 32);
                add_field(odd, c, 0x30, v + 48);
                add_field(even, b, 0x0c, v + 64);
                add_field(odd, c, 0x0c, v + 80);
                add_field(even, b, 0x03, v + 96);
                add_field(odd, c, 0x03, v + 112);
            }
        }
        total = _mm_add_epi32(total, _mm_add_epi32(_mm_srai_epi32(even, 6), _mm_srai_epi32(odd, 6)));
    }
    total = _mm_add_epi32(total, _mm_shuffle_epi32(total, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(total, _mm_shuffle_epi32(total, 0xb1)));
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                  uint8_t *scratch) {
    int8_t *arranged = reinterpret_cast<int8_t *>(scratch);
    arrange(x, n_in / 128, arranged);
    for (int r = 0; r < n_rows; ++r)
        acc[r] = row_sum(codes + size_t(r) * (size_t(n_in) / 4), n_in / 128, arranged) - x_sum;
}

// ---- several tokens ---------------------------------------------------------------------------------------------
//
// Rows are unpacked once, two to an int16: weight of the one + 2^14 * weight of the other, weights in {-1, 0, 1}. So
// one product serves two rows. A lane is two such rows and two elements of each: for 32 steps, 64 elements, the sum of
// the first row stays within +-32 * 2 * 127 = 8128 and can be told from the other's.
//
// Register v of step s: elements 2s and 2s + 1 of rows 8v..8v+3 (low) and 8v+4..8v+7 (high).

// 8 rows (`last` the highest that exists; it stands in for those beyond), to out + s * step bytes.
static void interleave_8(const uint8_t *codes, size_t row_bytes, int last, int n_groups, uint8_t *out, size_t step) {
    const __m128i three = _mm_set1_epi8(3), top = _mm_set1_epi8(char(0xc0)), both = _mm_set1_epi16(0x4001);
    for (int g = 0; g < n_groups; ++g)
        for (int half = 0; half < 2; ++half) {
            __m128i w[2][4];  // [low or high rows]: two steps of four rows
#pragma GCC unroll 2
            for (int h = 0; h < 2; ++h) {
                const auto bytes = [&](int r) {
                    r += 4 * h;
                    return load16(codes + size_t(r < last ? r : last) * row_bytes + size_t(g) * 32 + size_t(half) * 16);
                };
                const __m128i a = bytes(0), b = bytes(1), c = bytes(2), d = bytes(3);
                const __m128i ab = _mm_unpacklo_epi16(a, b), cd = _mm_unpacklo_epi16(c, d);
                const __m128i ef = _mm_unpackhi_epi16(a, b), gh = _mm_unpackhi_epi16(c, d);
                w[h][0] = _mm_unpacklo_epi32(ab, cd);
                w[h][1] = _mm_unpackhi_epi32(ab, cd);
                w[h][2] = _mm_unpacklo_epi32(ef, gh);
                w[h][3] = _mm_unpackhi_epi32(ef, gh);
            }
            uint8_t *o = out + (size_t(g) * 64 + size_t(half) * 8) * step;
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k)  // the low rows' field to bits 1:0, the high rows' to bits 7:6
#pragma GCC unroll 4
                for (int i = 0; i < 4; ++i) {
                    const __m128i low = _mm_and_si128(_mm_srli_epi16(w[0][i], 6 - 2 * k), three);
                    const __m128i high = _mm_and_si128(_mm_slli_epi16(w[1][i], 2 * k), top);
                    uint8_t *to = o + size_t(16 * k + 2 * i) * step;
                    store16_aligned(to, _mm_sub_epi16(_mm_unpacklo_epi8(low, high), both));
                    store16_aligned(to + step, _mm_sub_epi16(_mm_unpackhi_epi8(low, high), both));
                }
        }
}

// Four steps of 8 V rows by T tokens.
template <int V, int T>
static inline void add_steps(__m128i (&sum)[V][T], const uint8_t *w, const int8_t *x, size_t x_stride) {
    __m128i eight[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(x + size_t(t) * x_stride));
        eight[t] = _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
    }
    const auto step = [&](const uint8_t *c, const __m128i(&q)[T]) {
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) dot_add(sum[v][t], load16_aligned(c + 16 * v), q[t]);
    };
    __m128i q[T];
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) q[t] = _mm_shuffle_epi32(eight[t], 0x00);
    step(w, q);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) q[t] = _mm_shuffle_epi32(eight[t], 0x55);
    step(w + 16 * V, q);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) q[t] = _mm_shuffle_epi32(eight[t], 0xaa);
    step(w + 32 * V, q);
#pragma GCC unroll 4
    for (int t = 0; t < T; ++t) q[t] = _mm_shuffle_epi32(eight[t], 0xff);
    step(w + 48 * V, q);
}

static void store_rows(int32_t *to, __m128i v, int n_rows) {
    if (n_rows >= 4) return store16(to, v);
    int32_t lane[4];
    store16(lane, v);
    for (int k = 0; k < n_rows; ++k) to[k] = lane[k];
}

template <int V, int T>
static void tile(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, int n_rows, int32_t *acc,
                 size_t acc_stride) {
    // Sums begin at 2^13, which makes the low 14 bits a number >= 0 and the rest the other row's sum.
    const __m128i bias = _mm_set1_epi32(1 << 13), low_bits = _mm_set1_epi32((1 << 14) - 1);
    __m128i low[V][T], high[V][T];
    for (int v = 0; v < V; ++v)
        for (int t = 0; t < T; ++t) {
            low[v][t] = _mm_set1_epi32(-(n_in / 64) * (1 << 13));
            high[v][t] = _mm_setzero_si128();
        }
    for (int i = 0; i < n_in; i += 64) {
        __m128i sum[V][T];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) sum[v][t] = bias;
        for (int k = 0; k < 64; k += 8, w += 64 * V) add_steps<V, T>(sum, w, x + i + k, x_stride);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v)
#pragma GCC unroll 4
            for (int t = 0; t < T; ++t) {
                low[v][t] = _mm_add_epi32(low[v][t], _mm_and_si128(sum[v][t], low_bits));
                high[v][t] = _mm_add_epi32(high[v][t], _mm_srai_epi32(sum[v][t], 14));
            }
    }
    for (int t = 0; t < T; ++t)
        for (int v = 0; v < V; ++v) {
            int32_t *to = acc + size_t(t) * acc_stride + 8 * v;
            store_rows(to, low[v][t], n_rows - 8 * v);
            store_rows(to + 4, high[v][t], n_rows - 8 * v - 4);
        }
}

// V = (n_rows + 7) / 8.
template <int V>
static void block(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, int n_tokens,
                  int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    const size_t row_bytes = size_t(n_in) / 4;
    for (int v = 0; v < V; ++v)
        interleave_8(codes + size_t(8 * v) * row_bytes, row_bytes, n_rows - 1 - 8 * v, n_in / 128, scratch + 16 * v,
                     16 * V);
    int t = 0;
    for (; t + 2 <= n_tokens; t += 2)
        tile<V, 2>(scratch, n_in, x + size_t(t) * x_stride, x_stride, n_rows, acc + size_t(t) * acc_stride, acc_stride);
    if (t < n_tokens)
        tile<V, 1>(scratch, n_in, x + size_t(t) * x_stride, x_stride, n_rows, acc + size_t(t) * acc_stride, acc_stride);
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    for (int r = 0; r < n_rows; r += 32) {
        const int n = n_rows - r < 32 ? n_rows - r : 32;
        const uint8_t *c = codes + size_t(r) * (size_t(n_in) / 4);
        switch ((n + 7) / 8) {
        case 1: block<1>(c, n, n_in, x, x_stride, n_tokens, acc + r, acc_stride, scratch); break;
        case 2: block<2>(c, n, n_in, x, x_stride, n_tokens, acc + r, acc_stride, scratch); break;
        case 3: block<3>(c, n, n_in, x, x_stride, n_tokens, acc + r, acc_stride, scratch); break;
        default: block<4>(c, n, n_in, x, x_stride, n_tokens, acc + r, acc_stride, scratch);
        }
    }
}

}  // namespace bitnet::sse2
