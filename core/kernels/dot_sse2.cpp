// Float rows times a vector, and weighted sums of rows, with SSE2: four registers are the 16 lanes.
#define BITNET_ISA sse2
#include "core/kernels/declare.h"
#include "core/math.h"
#include <immintrin.h>

namespace bitnet::sse2 {

// Bytes ahead that rows are asked for, into the second cache: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 8192;

// load() widens 8 elements.
struct Eight {
    __m128 a, b;
};
struct F32 {
    using Element = float;
    static Eight load(const float *p) { return {_mm_loadu_ps(p), _mm_loadu_ps(p + 4)}; }
    static float one(const float *p) { return *p; }
};
struct F16 {
    using Element = uint16_t;
    // Four halves, each in the upper part of its lane. Sign, exponent and mantissa go where a float has them, which is
    // 2^-112 times the value, and a product with a power of two is exact, subnormal halves included. Infinities and
    // NaNs come out as 2^16 or more and get their exponent back.
    static __m128 widen(__m128i upper) {
        const __m128i moved = _mm_and_si128(_mm_srai_epi32(upper, 3), _mm_set1_epi32(int(0x8fffe000)));
        const __m128 f = _mm_mul_ps(_mm_castsi128_ps(moved), _mm_set1_ps(0x1p112f));
        const __m128 infinity = _mm_castsi128_ps(_mm_set1_epi32(0x7f800000));
        const __m128 magnitude = _mm_and_ps(f, _mm_castsi128_ps(_mm_set1_epi32(0x7fffffff)));
        return _mm_or_ps(f, _mm_and_ps(_mm_cmpge_ps(magnitude, _mm_set1_ps(65536.0f)), infinity));
    }
    static Eight load(const uint16_t *p) {
        const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)), zero = _mm_setzero_si128();
        return {widen(_mm_unpacklo_epi16(zero, v)), widen(_mm_unpackhi_epi16(zero, v))};
    }
    static float one(const uint16_t *p) { return half_to_float(*p); }
};
struct BF16 {
    using Element = uint16_t;
    static Eight load(const uint16_t *p) {
        const __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p)), zero = _mm_setzero_si128();
        return {_mm_castsi128_ps(_mm_unpacklo_epi16(zero, v)), _mm_castsi128_ps(_mm_unpackhi_epi16(zero, v))};
    }
    static float one(const uint16_t *p) { return bfloat_to_float(*p); }
};

// The first two steps of lane_tree() of lanes.h, and all four.
static inline __m128 four_of(const __m128 (&s)[4]) {
    return _mm_add_ps(_mm_add_ps(s[0], s[2]), _mm_add_ps(s[1], s[3]));
}
static inline float tree(const __m128 (&s)[4]) {
    const __m128 four = four_of(s);
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Lanes of one row times J vectors, n a multiple of 16.
template <class Type, int J>
static inline void multiply(const typename Type::Element *row, int n, const float *x, size_t x_stride,
                            __m128 (&sum)[J][4]) {
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) sum[j][k] = _mm_setzero_ps();
    for (int i = 0; i < n; i += 16) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) {
            const Eight w = Type::load(row + i + 8 * h);
#pragma GCC unroll 4
            for (int j = 0; j < J; ++j) {
                const float *v = x + size_t(j) * x_stride + i + 8 * h;
                sum[j][2 * h] = _mm_add_ps(sum[j][2 * h], _mm_mul_ps(w.a, _mm_loadu_ps(v)));
                sum[j][2 * h + 1] = _mm_add_ps(sum[j][2 * h + 1], _mm_mul_ps(w.b, _mm_loadu_ps(v + 4)));
            }
        }
    }
}

// Four rows times two vectors, n a multiple of 16; the last two steps of the tree of four rows at once.
template <class Type>
static void dot_4x2(const typename Type::Element *rows, size_t stride, int n, const float *x, size_t x_stride,
                    float *out, size_t out_stride) {
    __m128 four[4][2];
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
        __m128 s[2][4];
        multiply<Type, 2>(rows + size_t(r) * stride, n, x, x_stride, s);
        four[r][0] = four_of(s[0]);
        four[r][1] = four_of(s[1]);
    }
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
        const __m128 a = four[0][j], b = four[1][j], c = four[2][j], d = four[3][j];
        const __m128 ab = _mm_add_ps(_mm_shuffle_ps(a, b, 0x44), _mm_shuffle_ps(a, b, 0xee));
        const __m128 cd = _mm_add_ps(_mm_shuffle_ps(c, d, 0x44), _mm_shuffle_ps(c, d, 0xee));
        _mm_storeu_ps(out + size_t(j) * out_stride,
                      _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd)));
    }
}

// Rows times one vector, for rows that are read once, from memory.
template <class Type>
static void stream_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                        float *out) {
    for (int r = 0; r < n_rows; ++r) {
        const auto *row = rows + size_t(r) * stride;
        __m128 s[4] = {_mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps(), _mm_setzero_ps()};
        int i = 0;
        for (; i + 16 <= n; i += 16) {
            _mm_prefetch(reinterpret_cast<const char *>(row + i) + prefetch_bytes, _MM_HINT_T1);
            const Eight v = Type::load(row + i), w = Type::load(row + i + 8);
            s[0] = _mm_add_ps(s[0], _mm_mul_ps(v.a, _mm_loadu_ps(x + i)));
            s[1] = _mm_add_ps(s[1], _mm_mul_ps(v.b, _mm_loadu_ps(x + i + 4)));
            s[2] = _mm_add_ps(s[2], _mm_mul_ps(w.a, _mm_loadu_ps(x + i + 8)));
            s[3] = _mm_add_ps(s[3], _mm_mul_ps(w.b, _mm_loadu_ps(x + i + 12)));
        }
        if (i < n) {  // fewer than 16, each to its own lane
            float lane[16];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) _mm_storeu_ps(lane + 4 * k, s[k]);
            for (int k = 0; k < n - i; ++k) lane[k] = lane[k] + Type::one(row + i + k) * x[i + k];
#pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) s[k] = _mm_loadu_ps(lane + 4 * k);
        }
        out[r] = tree(s);
    }
}

// Rows outermost: those of a tile are used again for every pair of vectors. Rows with a tail are nobody's hot path.
template <class Type>
static void dot_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                     size_t x_stride, int n_x, float *out, size_t out_stride) {
    const int pairs = n % 16 == 0 ? n_x / 2 * 2 : 0;
    int r = 0;
    if (pairs)
        for (; r + 4 <= n_rows; r += 4)
            for (int j = 0; j < pairs; j += 2)
                dot_4x2<Type>(rows + size_t(r) * stride, stride, n, x + size_t(j) * x_stride, x_stride,
                              out + size_t(j) * out_stride + r, out_stride);
    for (int j = 0; j < pairs; ++j)
        stream_rows<Type>(rows + size_t(r) * stride, stride, n_rows - r, n, x + size_t(j) * x_stride,
                          out + size_t(j) * out_stride + r);
    for (int j = pairs; j < n_x; ++j)
        stream_rows<Type>(rows, stride, n_rows, n, x + size_t(j) * x_stride, out + size_t(j) * out_stride);
}

// 8 W columns for J vectors of weights; the sums stay in registers over all rows.
template <class Type, int W, int J>
static void mix_block(const typename Type::Element *rows, size_t stride, int n_rows, const float *weights,
                      size_t weights_stride, float *out, size_t out_stride) {
    __m128 sum[J][2 * W];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < 2 * W; ++k) sum[j][k] = _mm_loadu_ps(out + size_t(j) * out_stride + 4 * k);
    for (int r = 0; r < n_rows; ++r) {
        Eight v[W];
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) v[k] = Type::load(rows + size_t(r) * stride + 8 * k);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
            const __m128 w = _mm_set1_ps(weights[size_t(j) * weights_stride + size_t(r)]);
#pragma GCC unroll 8
            for (int k = 0; k < W; ++k) {
                sum[j][2 * k] = _mm_add_ps(sum[j][2 * k], _mm_mul_ps(w, v[k].a));
                sum[j][2 * k + 1] = _mm_add_ps(sum[j][2 * k + 1], _mm_mul_ps(w, v[k].b));
            }
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < 2 * W; ++k) _mm_storeu_ps(out + size_t(j) * out_stride + 4 * k, sum[j][k]);
}

// 8 W columns at a time, then 8, then one.
template <class Type, int W, int J>
static void mix_columns(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                        size_t weights_stride, float *out, size_t out_stride) {
    int i = 0;
    for (; i + 8 * W <= n; i += 8 * W)
        mix_block<Type, W, J>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    for (; i + 8 <= n; i += 8)
        mix_block<Type, 1, J>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    for (; i < n; ++i)
        for (int j = 0; j < J; ++j) {
            float sum = out[size_t(j) * out_stride + size_t(i)];
            for (int r = 0; r < n_rows; ++r)
                sum = sum + weights[size_t(j) * weights_stride + size_t(r)] * Type::one(rows + size_t(r) * stride + i);
            out[size_t(j) * out_stride + size_t(i)] = sum;
        }
}

template <class Type>
static void mix_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     size_t weights_stride, int n_x, float *out, size_t out_stride) {
    int j = 0;
    for (; j + 4 <= n_x; j += 4)
        mix_columns<Type, 1, 4>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
                                out + size_t(j) * out_stride, out_stride);
    for (; j < n_x; ++j)
        mix_columns<Type, 4, 1>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
                                out + size_t(j) * out_stride, out_stride);
}

void dot_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                  float *out, size_t out_stride) {
    dot_rows<F32>(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride);
}
void dot_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                  float *out, size_t out_stride) {
    dot_rows<F16>(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride);
}
void dot_rows_bf16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                   float *out, size_t out_stride) {
    dot_rows<BF16>(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride);
}
void mix_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *weights, size_t weights_stride,
                  int n_x, float *out, size_t out_stride) {
    mix_rows<F32>(rows, stride, n_rows, n, weights, weights_stride, n_x, out, out_stride);
}
void mix_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *weights, size_t weights_stride,
                  int n_x, float *out, size_t out_stride) {
    mix_rows<F16>(rows, stride, n_rows, n, weights, weights_stride, n_x, out, out_stride);
}

}  // namespace bitnet::sse2
