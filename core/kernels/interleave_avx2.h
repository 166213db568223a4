// Unpacking of ternary rows with AVX2, for the kernels that multiply 256 bits at a time: several rows side by side, so
// that a lane of an accumulator is one row, four activations of a token are broadcast, and nothing is added across
// lanes. Static: see lanes.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <immintrin.h>

namespace bitnet {

// 8 rows of I2_S block128 (`last` the highest that exists; it stands in for those beyond): to out + i * step bytes the
// codes of elements 4i..4i+3, row after row.
static void interleave_8(const uint8_t *codes, size_t row_bytes, int last, int n_groups, uint8_t *out, size_t step) {
    const __m256i three = _mm256_set1_epi8(3);
    const auto store = [](uint8_t *to, __m256i v) { _mm256_store_si256(reinterpret_cast<__m256i *>(to), v); };
    for (int g = 0; g < n_groups; ++g) {
        __m256i a[8], b[8];
#pragma GCC unroll 8
        for (int r = 0; r < 8; ++r)
            a[r] = _mm256_loadu_si256(
                reinterpret_cast<const __m256i *>(codes + size_t(r < last ? r : last) * row_bytes + size_t(g) * 32));
#pragma GCC unroll 8
        for (int r = 0; r < 8; r += 2) {
            b[r] = _mm256_unpacklo_epi32(a[r], a[r + 1]);
            b[r + 1] = _mm256_unpackhi_epi32(a[r], a[r + 1]);
        }
#pragma GCC unroll 8
        for (int r = 0; r < 8; r += 4)  // a[r + i]: bytes 4i.. and 4i+16.. of rows r..r+3
#pragma GCC unroll 8
            for (int i = 0; i < 2; ++i) {
                a[r + 2 * i] = _mm256_unpacklo_epi64(b[r + i], b[r + 2 + i]);
                a[r + 2 * i + 1] = _mm256_unpackhi_epi64(b[r + i], b[r + 2 + i]);
            }
        uint8_t *o = out + size_t(g) * 32 * step;
#pragma GCC unroll 8
        for (int i = 0; i < 8; ++i) {
            const __m256i t = i < 4 ? _mm256_permute2x128_si256(a[i % 4], a[4 + i % 4], 0x20)
                                    : _mm256_permute2x128_si256(a[i % 4], a[4 + i % 4], 0x31);
            store(o + size_t(i) * step, _mm256_and_si256(_mm256_srli_epi16(t, 6), three));
            store(o + size_t(i + 8) * step, _mm256_and_si256(_mm256_srli_epi16(t, 4), three));
            store(o + size_t(i + 16) * step, _mm256_and_si256(_mm256_srli_epi16(t, 2), three));
            store(o + size_t(i + 24) * step, _mm256_and_si256(t, three));
        }
    }
}

}  // namespace bitnet
