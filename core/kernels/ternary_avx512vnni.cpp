// Ternary product with AVX-512 VNNI: vpdpbusd multiplies unsigned codes with signed activations and adds four products
// into an int32.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

static __m256i load32(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
static __m512i load64(const void *p) { return _mm512_loadu_si512(p); }

// sum += codes * x in fours. In assembly: GCC 12 copies the accumulator of the intrinsic to another register and to
// memory at every step.
static inline void dot_add(__m512i &sum, __m512i codes, __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "vm"(x));
}

// ---- one token --------------------------------------------------------------------------------------------------

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 6144;

// Where a row's pairs of groups begin and whether each is a cache line: a load across two lines costs half of the
// memory's speed, and GGUF aligns tensors to 32 bytes only.
struct Pairs {
    int n;      // pairs of groups in order
    int first;  // the group that the first of them begins with: 1 where that is what makes a pair a line
    int ends;   // groups left over: the last one; or, with first == 1, the first and the last, taken together
};
static inline Pairs pairs_of(const uint8_t *codes, int n_groups) {
    // With an odd number of groups the place of a line changes from row to row.
    if (n_groups % 2) return {n_groups / 2, 0, 1};
    if (reinterpret_cast<uintptr_t>(codes) % 64 == 32) return {n_groups / 2 - 1, 1, 2};
    return {n_groups / 2, 0, 0};
}

// x in the order in which the blocks meet it: field k of both groups of a pair side by side; the ends last, where a
// lone group fills the lower half and the upper is 0.
static void arrange(const int8_t *x, int n_groups, const Pairs &pairs, int8_t *out) {
    const auto field = [&](int group, int k) { return load32(x + group * 128 + k * 32); };
    for (int i = 0; i < pairs.n; ++i)
        for (int k = 0; k < 4; ++k, out += 64)
            _mm512_store_si512(out, _mm512_inserti64x4(_mm512_castsi256_si512(field(2 * i + pairs.first, k)),
                                                       field(2 * i + pairs.first + 1, k), 1));
    for (int k = 0; k < 4 && pairs.ends == 1; ++k, out += 64)
        _mm512_store_si512(out, _mm512_zextsi256_si512(field(n_groups - 1, k)));
    for (int k = 0; k < 4 && pairs.ends == 2; ++k, out += 64)
        _mm512_store_si512(out, _mm512_inserti64x4(_mm512_castsi256_si512(field(0, k)), field(n_groups - 1, k), 1));
}

struct Sums {
    __m512i field[4];
};

// The fields are masked, not shifted down: field k counts 4^(3 - k) times, and total() divides, exactly.
static inline void add_block(Sums &s, __m512i b, const int8_t *x) {
    dot_add(s.field[0], _mm512_and_si512(b, _mm512_set1_epi8(char(0xc0))), load64(x));
    dot_add(s.field[1], _mm512_and_si512(b, _mm512_set1_epi8(0x30)), load64(x + 64));
    dot_add(s.field[2], _mm512_and_si512(b, _mm512_set1_epi8(0x0c)), load64(x + 128));
    dot_add(s.field[3], _mm512_and_si512(b, _mm512_set1_epi8(0x03)), load64(x + 192));
}
static inline __m512i total(const Sums &s) {
    return _mm512_add_epi32(_mm512_add_epi32(_mm512_srai_epi32(s.field[0], 6), _mm512_srai_epi32(s.field[1], 4)),
                            _mm512_add_epi32(_mm512_srai_epi32(s.field[2], 2), s.field[3]));
}

static inline __m512i ends(const uint8_t *row, int last, int n) {
    if (n == 1) return _mm512_zextsi256_si512(load32(row + last));
    return _mm512_inserti64x4(_mm512_castsi256_si512(load32(row)), load32(row + last), 1);
}

// Not inlined: four copies of this loop, one for each of the rows below, read memory at 3/4 of the speed of one, when two
// threads share it (core/DESIGN.md).
[[gnu::noinline]] static __m512i row_sums(const uint8_t *row, int n_groups, const Pairs &pairs, const int8_t *x) {
    const __m512i zero = _mm512_setzero_si512();
    Sums s = {{zero, zero, zero, zero}};
    const uint8_t *p = row + pairs.first * 32;
    for (int i = 0; i < pairs.n; ++i, p += 64, x += 256) {
        _mm_prefetch(reinterpret_cast<const char *>(p) + prefetch_bytes, _MM_HINT_T0);
        add_block(s, load64(p), x);
    }
    if (pairs.ends) {
        _mm_prefetch(reinterpret_cast<const char *>(p) + prefetch_bytes, _MM_HINT_T0);
        add_block(s, ends(row, (n_groups - 1) * 32, pairs.ends), x);
    }
    return total(s);
}

// The sums of four registers.
static inline __m128i sum_each(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i t = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(t), _mm256_extracti128_si256(t, 1));
}

void ternary_rows(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                  uint8_t *scratch) {
    int8_t *arranged = reinterpret_cast<int8_t *>(scratch);
    const int n_groups = n_in / 128;
    const size_t row_bytes = size_t(n_in) / 4;
    const Pairs pairs = pairs_of(codes, n_groups);
    arrange(x, n_groups, pairs, arranged);
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) {
        const uint8_t *row = codes + size_t(r) * row_bytes;
        const __m512i a = row_sums(row, n_groups, pairs, arranged);
        const __m512i b = row_sums(row + row_bytes, n_groups, pairs, arranged);
        const __m512i c = row_sums(row + 2 * row_bytes, n_groups, pairs, arranged);
        const __m512i d = row_sums(row + 3 * row_bytes, n_groups, pairs, arranged);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(acc + r),
                         _mm_sub_epi32(sum_each(a, b, c, d), _mm_set1_epi32(x_sum)));
    }
    for (; r < n_rows; ++r)
        acc[r] = _mm512_reduce_add_epi32(row_sums(codes + size_t(r) * row_bytes, n_groups, pairs, arranged)) - x_sum;
}

// ---- several tokens ---------------------------------------------------------------------------------------------
//
// Rows are unpacked once, interleaved: register v of step i holds elements 4i..4i+3 of rows 16v..16v+15, so a lane of
// an accumulator is one row, four activations of a token are broadcast, and nothing is added across lanes.

// Codes of 16 rows (`last` the highest that exists; it stands in for those beyond), interleaved, to out + i * step
// bytes.
static void interleave_16(const uint8_t *codes, size_t row_bytes, int last, int n_groups, uint8_t *out, size_t step) {
    const __m512i three = _mm512_set1_epi8(3);
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13),
                  high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    for (int g = 0; g < n_groups; ++g) {
        const auto group = [&](int r) {
            return load32(codes + size_t(r < last ? r : last) * row_bytes + size_t(g) * 32);
        };
        if (g % 2 == 0)  // the same groups of the next block of rows
            for (int r = 0; r < 16; ++r)
                _mm_prefetch(reinterpret_cast<const char *>(codes + size_t(r + 64) * row_bytes + size_t(g) * 32),
                             _MM_HINT_T1);
        __m512i a[8], b[8], t[8];
        for (int r = 0; r < 8; ++r) a[r] = _mm512_inserti64x4(_mm512_castsi256_si512(group(r)), group(r + 8), 1);
        for (int r = 0; r < 8; r += 2) {
            b[r] = _mm512_unpacklo_epi32(a[r], a[r + 1]);
            b[r + 1] = _mm512_unpackhi_epi32(a[r], a[r + 1]);
        }
        for (int r = 0; r < 8; r += 4)  // a[r + i]: bytes 4i.. and 4i+16.. of rows r..r+3 and r+8..r+11
            for (int i = 0; i < 2; ++i) {
                a[r + 2 * i] = _mm512_unpacklo_epi64(b[r + i], b[r + 2 + i]);
                a[r + 2 * i + 1] = _mm512_unpackhi_epi64(b[r + i], b[r + 2 + i]);
            }
        for (int i = 0; i < 4; ++i) {
            t[i] = _mm512_permutex2var_epi64(a[i], low, a[4 + i]);
            t[i + 4] = _mm512_permutex2var_epi64(a[i], high, a[4 + i]);
        }
        uint8_t *o = out + size_t(g) * 32 * step;
        for (int i = 0; i < 8; ++i) {
            _mm512_store_si512(o + size_t(i) * step, _mm512_and_si512(_mm512_srli_epi16(t[i], 6), three));
            _mm512_store_si512(o + size_t(i + 8) * step, _mm512_and_si512(_mm512_srli_epi16(t[i], 4), three));
            _mm512_store_si512(o + size_t(i + 16) * step, _mm512_and_si512(_mm512_srli_epi16(t[i], 2), three));
            _mm512_store_si512(o + size_t(i + 24) * step, _mm512_and_si512(t[i], three));
        }
    }
}

// 16 V rows by T tokens; the accumulators stay in registers.
template <int V, int T>
static void tile(const uint8_t *w, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums, int n_rows,
                 int32_t *acc, size_t acc_stride) {
    __m512i sum[V][T];
#pragma GCC unroll 8
    for (int t = 0; t < T; ++t)
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[v][t] = _mm512_set1_epi32(-x_sums[t]);
    for (int i = 0; i < n_in; i += 4, w += 64 * V) {
        __m512i c[V];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) c[v] = _mm512_load_si512(w + 64 * v);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) {
            int32_t four;
            __builtin_memcpy(&four, x + size_t(t) * x_stride + i, 4);
            const __m512i q = _mm512_set1_epi32(four);
#pragma GCC unroll 8
            for (int v = 0; v < V; ++v) dot_add(sum[v][t], c[v], q);
        }
    }
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) {
        const int left = n_rows - 16 * v;
        const __mmask16 mask = left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1u);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) _mm512_mask_storeu_epi32(acc + size_t(t) * acc_stride + 16 * v, mask, sum[v][t]);
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

static constexpr int tile_tokens = 6;  // 4 x 6 accumulators, 4 registers of codes, 1 of activations

// V = (n_rows + 15) / 16.
template <int V>
static void block(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                  int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    const size_t row_bytes = size_t(n_in) / 4;
    for (int v = 0; v < V; ++v)
        interleave_16(codes + size_t(16 * v) * row_bytes, row_bytes, n_rows - 1 - 16 * v, n_in / 128, scratch + 64 * v,
                      64 * V);
    int t = 0;
    for (; t + tile_tokens <= n_tokens; t += tile_tokens)
        tile<V, tile_tokens>(scratch, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, n_rows,
                             acc + size_t(t) * acc_stride, acc_stride);
    rest<V, tile_tokens - 1>(scratch, n_in, x + size_t(t) * x_stride, x_stride, x_sums + t, n_tokens - t, n_rows,
                             acc + size_t(t) * acc_stride, acc_stride);
}

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    for (int r = 0; r < n_rows; r += 64) {
        const int n = n_rows - r < 64 ? n_rows - r : 64;
        const uint8_t *c = codes + size_t(r) * (size_t(n_in) / 4);
        switch ((n + 15) / 16) {
        case 1: block<1>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch); break;
        case 2: block<2>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch); break;
        case 3: block<3>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch); break;
        default: block<4>(c, n, n_in, x, x_stride, x_sums, n_tokens, acc + r, acc_stride, scratch);
        }
    }
}

}  // namespace bitnet::avx512vnni
