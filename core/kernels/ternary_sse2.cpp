// Ternary product with SSE2: there are no products of bytes, so codes and activations become int16 and pmaddwd
// multiplies eight and adds in pairs into int32.
#define BITNET_ISA sse2
#include "core/kernels/declare.h"
#include "core/kernels/ternary_x86.h"
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

// ---- several tokens, by tables (ternary_x86.h) ----------------------------------------------------------------

static void store_rows(int32_t *to, __m128i v, int n_rows) {
    if (n_rows >= 4) return store16(to, v);
    int32_t lane[4];
    store16(lane, v);
    for (int k = 0; k < n_rows; ++k) to[k] = lane[k];
}

namespace {
struct Lanes {
    using Vector = __m128i;
    static constexpr int tokens = 8, bytes = 16, few = 1;
    static constexpr auto one_token = ternary_rows;
    static Vector load(const void *p) { return load16_aligned(p); }
    static void store(void *p, Vector v) { store16_aligned(p, v); }
    static Vector zero() { return _mm_setzero_si128(); }
    static Vector add(Vector a, Vector b) { return _mm_add_epi16(a, b); }
    static Vector sub(Vector a, Vector b) { return _mm_sub_epi16(a, b); }

    static void add_found(Vector &a, Vector &b, uint64_t of_a, uint64_t of_b, const uint8_t *tables) {
        uint64_t at;
        asm volatile(
            BITNET_FOUR_OF_TWO("paddw %c[table]*", "(%[tables],%[at]), %[a]\n\t", "(%[tables],%[at]), %[b]\n\t")
            : [a] "+x"(a), [b] "+x"(b), [of_a] "+r"(of_a), [of_b] "+r"(of_b), [at] "=&r"(at)
            : [tables] "r"(tables), [table] "i"(table_sums * bytes)
            : "memory", "cc");
    }

    static void widen(Vector v, int32_t *out, bool more) {
        __m128i low = _mm_srai_epi32(_mm_unpacklo_epi16(v, v), 16), high = _mm_srai_epi32(_mm_unpackhi_epi16(v, v), 16);
        if (more) {
            low = _mm_add_epi32(low, load(out));
            high = _mm_add_epi32(high, load(out + 4));
        }
        store(out, low);
        store(out + 4, high);
    }

    // 8 x 16 bytes at a time: after three rounds of interleaving rows r and r + 4, row i holds columns 2 i and 2 i + 1.
    static void spread(const int8_t *x, size_t x_stride, int n, int16_t *out) {
        for (int i = 0; i < 128; i += 16, out += 16 * tokens) {
            __m128i a[8], b[8];
#pragma GCC unroll 8
            for (int t = 0; t < 8; ++t) a[t] = load16(x + size_t(t < n ? t : n - 1) * x_stride + i);
            const auto round = [](const __m128i(&from)[8], __m128i(&to)[8]) {
#pragma GCC unroll 4
                for (int r = 0; r < 4; ++r) {
                    to[2 * r] = _mm_unpacklo_epi8(from[r], from[r + 4]);
                    to[2 * r + 1] = _mm_unpackhi_epi8(from[r], from[r + 4]);
                }
            };
            round(a, b);
            round(b, a);
            round(a, b);
#pragma GCC unroll 8
            for (int k = 0; k < 8; ++k) {
                store(out + 2 * k * tokens, _mm_srai_epi16(_mm_unpacklo_epi8(b[k], b[k]), 8));
                store(out + (2 * k + 1) * tokens, _mm_srai_epi16(_mm_unpackhi_epi8(b[k], b[k]), 8));
            }
        }
    }

    static void transpose(const int32_t *sums, int n_rows, int n, int32_t *acc, size_t acc_stride) {
        for (int r = 0; r < n_rows; r += 4, sums += 4 * tokens, acc += 4)
            for (int t = 0; t < n; t += 4) {
                const __m128i s0 = load(sums + t), s1 = load(sums + tokens + t), s2 = load(sums + 2 * tokens + t),
                              s3 = load(sums + 3 * tokens + t);
                const __m128i a = _mm_unpacklo_epi32(s0, s1), b = _mm_unpackhi_epi32(s0, s1),
                              c = _mm_unpacklo_epi32(s2, s3), d = _mm_unpackhi_epi32(s2, s3);
                const __m128i token[4] = {_mm_unpacklo_epi64(a, c), _mm_unpackhi_epi64(a, c), _mm_unpacklo_epi64(b, d),
                                          _mm_unpackhi_epi64(b, d)};
                for (int k = 0; k < 4 && t + k < n; ++k)
                    store_rows(acc + size_t(t + k) * acc_stride, token[k], n_rows - r);
            }
    }
};
}  // namespace

void ternary_batch(const uint8_t *codes, int n_rows, int n_in, const int8_t *x, size_t x_stride, const int32_t *x_sums,
                   int n_tokens, int32_t *acc, size_t acc_stride, uint8_t *scratch) {
    multiply_by_tables<Lanes>(codes, n_rows, n_in, x, x_stride, x_sums, n_tokens, acc, acc_stride, scratch);
}

}  // namespace bitnet::sse2
