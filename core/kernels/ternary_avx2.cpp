// Ternary product with AVX2: vpmaddubsw multiplies unsigned codes with signed activations and adds two products into an
// int16. Sums stay in int16 for as long as they cannot overflow.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include "core/kernels/ternary_x86.h"
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

// ---- several tokens, by tables (ternary_x86.h) ---------------------------------------------------------------

namespace {
struct Lanes {
    using Vector = __m256i;
    static constexpr int tokens = 16, bytes = 32, few = 10;
    static constexpr auto one_token = ternary_rows;
    static Vector load(const void *p) { return load32_aligned(p); }
    static void store(void *p, Vector v) { _mm256_store_si256(static_cast<__m256i *>(p), v); }
    static Vector zero() { return _mm256_setzero_si256(); }
    static Vector add(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
    static Vector sub(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }

    static void add_found(Vector &a, Vector &b, uint64_t of_a, uint64_t of_b, const uint8_t *tables) {
        uint64_t at;
        asm volatile(BITNET_FOUR_OF_TWO("vpaddw %c[table]*", "(%[tables],%[at]), %[a], %[a]\n\t",
                                        "(%[tables],%[at]), %[b], %[b]\n\t")
                     : [a] "+x"(a), [b] "+x"(b), [of_a] "+r"(of_a), [of_b] "+r"(of_b), [at] "=&r"(at)
                     : [tables] "r"(tables), [table] "i"(table_sums * bytes)
                     : "memory", "cc");
    }

    static void widen(Vector v, int32_t *out, bool more) {
        __m256i low = _mm256_cvtepi16_epi32(_mm256_castsi256_si128(v)),
                high = _mm256_cvtepi16_epi32(_mm256_extracti128_si256(v, 1));
        if (more) {
            low = _mm256_add_epi32(low, load(out));
            high = _mm256_add_epi32(high, load(out + 8));
        }
        store(out, low);
        store(out + 8, high);
    }

    // 16 x 16 bytes at a time: after four rounds of interleaving rows r and r + 8, row i holds column i.
    static void spread(const int8_t *x, size_t x_stride, int n, int16_t *out) {
        for (int i = 0; i < 128; i += 16, out += 16 * tokens) {
            __m128i a[16], b[16];
#pragma GCC unroll 16
            for (int t = 0; t < 16; ++t)
                a[t] = _mm_loadu_si128(
                    reinterpret_cast<const __m128i *>(x + size_t(t < n ? t : n - 1) * x_stride + size_t(i)));
            const auto round = [](const __m128i(&from)[16], __m128i(&to)[16]) {
#pragma GCC unroll 8
                for (int r = 0; r < 8; ++r) {
                    to[2 * r] = _mm_unpacklo_epi8(from[r], from[r + 8]);
                    to[2 * r + 1] = _mm_unpackhi_epi8(from[r], from[r + 8]);
                }
            };
            round(a, b);
            round(b, a);
            round(a, b);
            round(b, a);
#pragma GCC unroll 16
            for (int k = 0; k < 16; ++k) store(out + k * tokens, _mm256_cvtepi8_epi16(a[k]));
        }
    }

    static void transpose(const int32_t *sums, int n_rows, int n, int32_t *acc, size_t acc_stride) {
        __m256i token[16];
#pragma GCC unroll 2
        for (int half = 0; half < 16; half += 8) {
            __m256i a[8], b[8];
#pragma GCC unroll 8
            for (int r = 0; r < 8; ++r) a[r] = load(sums + r * tokens + half);
#pragma GCC unroll 4
            for (int r = 0; r < 8; r += 2) {
                b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
                b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
            }
#pragma GCC unroll 2
            for (int r = 0; r < 8; r += 4)  // a[r + i]: tokens i and i + 4 of rows r..r+3
#pragma GCC unroll 2
                for (int i = 0; i < 2; ++i) {
                    a[r + 2 * i] = _mm256_unpacklo_epi64(b[r + i], b[r + 2 + i]);
                    a[r + 2 * i + 1] = _mm256_unpackhi_epi64(b[r + i], b[r + 2 + i]);
                }
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                token[half + i] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x20);
                token[half + i + 4] = _mm256_permute2x128_si256(a[i], a[i + 4], 0x31);
            }
        }
        for (int t = 0; t < n; ++t, acc += acc_stride) {
            if (n_rows == 8) {
                store32(acc, token[t]);
                continue;
            }
            int32_t lane[8];
            store32(lane, token[t]);
            for (int r = 0; r < n_rows; ++r) acc[r] = lane[r];
        }
    }
};
}  // namespace

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    multiply_by_tables<Lanes>(codes, n_rows, n_in, x, x_stride, x_sums, n_tokens, acc, acc_stride, scratch);
}

}  // namespace bitnet::avx2
