// Float rows times a vector, and weighted sums of rows, with AVX2: two registers are the 16 lanes.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx2 {

static constexpr int prefetch_bytes = 2048;

struct F32 {
    using Element = float;
    static __m256 load(const float *p) { return _mm256_loadu_ps(p); }
    static float one(const float *p) { return *p; }
};
struct F16 {
    using Element = uint16_t;
    static __m256 load(const uint16_t *p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
    }
    static float one(const uint16_t *p) { return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(*p))); }
};
struct BF16 {
    using Element = uint16_t;
    static __m256 load(const uint16_t *p) {
        const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
        return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
    }
    static float one(const uint16_t *p) { return __builtin_bit_cast(float, uint32_t(*p) << 16); }
};

// lane_tree() of lanes.h on lanes 0..7 in a and 8..15 in b.
static float tree(__m256 a, __m256 b) {
    const __m256 eight = _mm256_add_ps(a, b);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <class Type, int R>
static void dot_block(const typename Type::Element *rows, size_t stride, int n, const float *x, float *out) {
    __m256 a[R], b[R];
    for (int r = 0; r < R; ++r) a[r] = b[r] = _mm256_setzero_ps();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m256 x0 = _mm256_loadu_ps(x + i), x1 = _mm256_loadu_ps(x + i + 8);
        for (int r = 0; r < R; ++r) {
            const auto *p = rows + size_t(r) * stride + i;
            _mm_prefetch(reinterpret_cast<const char *>(p) + prefetch_bytes, _MM_HINT_T0);
            a[r] = _mm256_add_ps(a[r], _mm256_mul_ps(Type::load(p), x0));
            b[r] = _mm256_add_ps(b[r], _mm256_mul_ps(Type::load(p + 8), x1));
        }
    }
    for (int r = 0; r < R; ++r) {
        if (i < n) {
            float lane[16];
            _mm256_storeu_ps(lane, a[r]);
            _mm256_storeu_ps(lane + 8, b[r]);
            for (int k = i; k < n; ++k) lane[k - i] = lane[k - i] + Type::one(rows + size_t(r) * stride + k) * x[k];
            a[r] = _mm256_loadu_ps(lane);
            b[r] = _mm256_loadu_ps(lane + 8);
        }
        out[r] = tree(a[r], b[r]);
    }
}

template <class Type>
static void dot_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    int r = 0;
    for (; r + 4 <= n_rows; r += 4) dot_block<Type, 4>(rows + size_t(r) * stride, stride, n, x, out + r);
    for (; r < n_rows; ++r) dot_block<Type, 1>(rows + size_t(r) * stride, stride, n, x, out + r);
}

template <class Type, int W>
static void mix_block(const typename Type::Element *rows, size_t stride, int n_rows, const float *weights, float *out) {
    __m256 sum[W];
    for (int k = 0; k < W; ++k) sum[k] = _mm256_setzero_ps();
    for (int r = 0; r < n_rows; ++r) {
        const __m256 w = _mm256_set1_ps(weights[r]);
        for (int k = 0; k < W; ++k)
            sum[k] = _mm256_add_ps(sum[k], _mm256_mul_ps(w, Type::load(rows + size_t(r) * stride + 8 * k)));
    }
    for (int k = 0; k < W; ++k) _mm256_storeu_ps(out + 8 * k, sum[k]);
}

template <class Type>
static void mix_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     float *out) {
    int i = 0;
    for (; i + 64 <= n; i += 64) mix_block<Type, 8>(rows + i, stride, n_rows, weights, out + i);
    for (; i + 8 <= n; i += 8) mix_block<Type, 1>(rows + i, stride, n_rows, weights, out + i);
    for (; i < n; ++i) {
        float sum = 0.0f;
        for (int r = 0; r < n_rows; ++r) sum = sum + weights[r] * Type::one(rows + size_t(r) * stride + i);
        out[i] = sum;
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

}  // namespace bitnet::avx2
