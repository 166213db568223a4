// Five trits a byte with AVX-512 VBMI: one permutation looks four of them up, the fifth is what was subtracted.
#include "core/kernels/dense.h"

#include <immintrin.h>

#define BITNET_ISA avx512vbmi
#include "core/kernels/pace_x86.h"

namespace bitnet::avx512vbmi {

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 6144;

static __m512i load64(const void *p) { return _mm512_loadu_si512(p); }

// In assembly: see ternary_avx512vnni.cpp. x lies in scratch.
static inline void dot_add(__m512i &sum, __m512i codes, const int8_t *x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(codes), "m"(*reinterpret_cast<const __m512i *>(x)));
}

// Entry v < 81: its four base-3 digits as fields of two bits, the lowest first.
struct Fields {
    alignas(64) uint8_t of[128];
};
static constexpr Fields make_fields() {
    Fields fields = {};
    for (int v = 0; v < 81; ++v) fields.of[v] = uint8_t(v % 3 | v / 3 % 3 << 2 | v / 9 % 3 << 4 | v / 27 << 6);
    return fields;
}
static constexpr Fields fields = make_fields();

struct Tables {
    __m512i low, high, step;
};

struct Sums {
    __m512i digit[5];
};

// Digit k < 4 counts 4^k times, the fifth 82 times; total() divides, exactly.
static inline void add_block(Sums &s, const Tables &t, __m512i bytes, const int8_t *x) {
    // A difference below zero wraps around and is the larger one.
    const __m512i once = _mm512_min_epu8(bytes, _mm512_sub_epi8(bytes, t.step));
    const __m512i four = _mm512_min_epu8(once, _mm512_sub_epi8(once, t.step));
    const __m512i f = _mm512_permutex2var_epi8(t.low, four, t.high);
    dot_add(s.digit[0], _mm512_and_si512(f, _mm512_set1_epi8(0x03)), x);
    dot_add(s.digit[1], _mm512_and_si512(f, _mm512_set1_epi8(0x0c)), x + 64);
    dot_add(s.digit[2], _mm512_and_si512(f, _mm512_set1_epi8(0x30)), x + 128);
    dot_add(s.digit[3], _mm512_and_si512(f, _mm512_set1_epi8(char(0xc0))), x + 192);
    dot_add(s.digit[4], _mm512_sub_epi8(bytes, four), x + 256);
}
static inline __m512i total(const Sums &s) {
    // Division by 82 without a remainder: half of it, times the inverse of 41 modulo 2^32.
    const __m512i fifth = _mm512_mullo_epi32(_mm512_srai_epi32(s.digit[4], 1), _mm512_set1_epi32(int(0xc18f9c19)));
    return _mm512_add_epi32(_mm512_add_epi32(_mm512_add_epi32(s.digit[0], _mm512_srai_epi32(s.digit[1], 2)), fifth),
                            _mm512_add_epi32(_mm512_srai_epi32(s.digit[2], 4), _mm512_srai_epi32(s.digit[3], 6)));
}

// Not inlined: see ternary_avx512vnni.cpp.
[[gnu::noinline]] static __m512i row_sums(const uint8_t *row, int n_blocks, const Tables &t, const int8_t *x) {
    const __m512i zero = _mm512_setzero_si512();
    Sums s = {{zero, zero, zero, zero, zero}};
    for (int b = 0; b < n_blocks; ++b, row += dense_block_bytes, x += dense_block) {
        _mm_prefetch(reinterpret_cast<const char *>(row) + prefetch_bytes, _MM_HINT_T0);
        add_block(s, t, load64(row), x);
        pace<14>();
    }
    return total(s);
}

// The sums of four registers.
static inline __m128i sum_each(__m512i a, __m512i b, __m512i c, __m512i d) {
    const __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    const __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    const __m512i s = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    const __m256i u = _mm256_add_epi32(_mm512_castsi512_si256(s), _mm512_extracti64x4_epi64(s, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1));
}

void dense_rows(const uint8_t *rows, int n_rows, int n_in, const int8_t *x, int32_t x_sum, int32_t *acc,
                uint8_t *scratch) {
    // x with zeros up to the end of the last block.
    const int n_blocks = dense_blocks(n_in);
    int8_t *padded = reinterpret_cast<int8_t *>(scratch);
    for (int i = 0; i < n_blocks * dense_block; i += 64) {
        const int left = n_in - i;
        const __mmask64 mask = left >= 64 ? ~__mmask64(0) : left > 0 ? ~__mmask64(0) >> (64 - left) : 0;
        _mm512_store_si512(padded + i, _mm512_maskz_loadu_epi8(mask, x + i));
    }
    const Tables t = {load64(fields.of), load64(fields.of + 64), _mm512_set1_epi8(dense_step)};
    const size_t row_bytes = dense_row_bytes(n_in);
    int r = 0;
    for (; r + 4 <= n_rows; r += 4, rows += 4 * row_bytes) {
        const __m512i a = row_sums(rows, n_blocks, t, padded);
        const __m512i b = row_sums(rows + row_bytes, n_blocks, t, padded);
        const __m512i c = row_sums(rows + 2 * row_bytes, n_blocks, t, padded);
        const __m512i d = row_sums(rows + 3 * row_bytes, n_blocks, t, padded);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(acc + r),
                         _mm_sub_epi32(sum_each(a, b, c, d), _mm_set1_epi32(x_sum)));
    }
    for (; r < n_rows; ++r, rows += row_bytes)
        acc[r] = _mm512_reduce_add_epi32(row_sums(rows, n_blocks, t, padded)) - x_sum;
}

}  // namespace bitnet::avx512vbmi
