// Float rows times a vector, and weighted sums of rows, with AVX-512: one register is the 16 lanes.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

static constexpr int prefetch_bytes = 2048;

static __mmask16 tail_mask(int n) { return __mmask16((1u << n) - 1u); }

// Masked-off elements are +0; adding +0 * +0 leaves a lane as it is, because a lane that began at +0 is never -0.
struct F32 {
    using Element = float;
    static __m512 load(const float *p) { return _mm512_loadu_ps(p); }
    static __m512 load(const float *p, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, p); }
};
struct F16 {
    using Element = uint16_t;
    static __m512 load(const uint16_t *p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p)));
    }
    static __m512 load(const uint16_t *p, __mmask16 mask) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, p)); }
};
struct BF16 {
    using Element = uint16_t;
    static __m512 widen(__m256i v) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16)); }
    static __m512 load(const uint16_t *p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(p))); }
    static __m512 load(const uint16_t *p, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, p)); }
};

// lane_tree() of lanes.h.
static float tree(__m512 lanes) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <class Type, int R>
static void dot_block(const typename Type::Element *rows, size_t stride, int n, const float *x, float *out) {
    __m512 sum[R];
    for (int r = 0; r < R; ++r) sum[r] = _mm512_setzero_ps();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        for (int r = 0; r < R; ++r) {
            const auto *p = rows + size_t(r) * stride + i;
            _mm_prefetch(reinterpret_cast<const char *>(p) + prefetch_bytes, _MM_HINT_T0);
            sum[r] = _mm512_add_ps(sum[r], _mm512_mul_ps(Type::load(p), v));
        }
    }
    if (i < n) {
        const __mmask16 mask = tail_mask(n - i);
        const __m512 v = _mm512_maskz_loadu_ps(mask, x + i);
        for (int r = 0; r < R; ++r)
            sum[r] = _mm512_mask_add_ps(sum[r], mask, sum[r],
                                        _mm512_mul_ps(Type::load(rows + size_t(r) * stride + i, mask), v));
    }
    for (int r = 0; r < R; ++r) out[r] = tree(sum[r]);
}

template <class Type>
static void dot_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) dot_block<Type, 4>(rows + size_t(r) * stride, stride, n, x, out + r);
    for (; r < n_rows; ++r) dot_block<Type, 1>(rows + size_t(r) * stride, stride, n, x, out + r);
}

template <class Type, int W>
static void mix_block(const typename Type::Element *rows, size_t stride, int n_rows, const float *weights, float *out) {
    __m512 sum[W];
    for (int k = 0; k < W; ++k) sum[k] = _mm512_setzero_ps();
    for (int r = 0; r < n_rows; ++r) {
        const __m512 w = _mm512_set1_ps(weights[r]);
        for (int k = 0; k < W; ++k)
            sum[k] = _mm512_add_ps(sum[k], _mm512_mul_ps(w, Type::load(rows + size_t(r) * stride + 16 * k)));
    }
    for (int k = 0; k < W; ++k) _mm512_storeu_ps(out + 16 * k, sum[k]);
}

template <class Type>
static void mix_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     float *out) {
    int i = 0;
    for (; i + 64 <= n; i += 64) mix_block<Type, 4>(rows + i, stride, n_rows, weights, out + i);
    for (; i + 16 <= n; i += 16) mix_block<Type, 1>(rows + i, stride, n_rows, weights, out + i);
    if (i < n) {
        const __mmask16 mask = tail_mask(n - i);
        __m512 sum = _mm512_setzero_ps();
        for (int r = 0; r < n_rows; ++r)
            sum = _mm512_add_ps(
                sum, _mm512_mul_ps(_mm512_set1_ps(weights[r]), Type::load(rows + size_t(r) * stride + i, mask)));
        _mm512_mask_storeu_ps(out + i, mask, sum);
    }
}

void dot_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows<F32>(rows, stride, n_rows, n, x, out);
}
void dot_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows<F16>(rows, stride, n_rows, n, x, out);
}
void dot_rows_bf16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows<BF16>(rows, stride, n_rows, n, x, out);
}
void mix_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *weights, float *out) {
    mix_rows<F32>(rows, stride, n_rows, n, weights, out);
}
void mix_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *weights, float *out) {
    mix_rows<F16>(rows, stride, n_rows, n, weights, out);
}

}  // namespace bitnet::avx512vnni
