// Float rows times a vector, and weighted sums of rows, with AVX2: two registers are the 16 lanes.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include <immintrin.h>

namespace bitnet::avx2 {

// Bytes ahead that rows are asked for: they are read once, from memory (core/DESIGN.md).
static constexpr int prefetch_bytes = 6144;

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

// lanes 0..7 of a sum, and lanes 8..15.
struct Lanes {
    __m256 low, high;
};

static inline void add(Lanes &s, __m256 w0, __m256 w1, __m256 v0, __m256 v1) {
    s.low = _mm256_add_ps(s.low, _mm256_mul_ps(w0, v0));
    s.high = _mm256_add_ps(s.high, _mm256_mul_ps(w1, v1));
}

// The last elements, fewer than 16, each to its own lane.
template <class Type> static inline void add_tail(Lanes &s, const typename Type::Element *row, const float *x, int n) {
    float lane[16];
    _mm256_storeu_ps(lane, s.low);
    _mm256_storeu_ps(lane + 8, s.high);
    for (int i = 0; i < n; ++i) lane[i] = lane[i] + Type::one(row + i) * x[i];
    s = {_mm256_loadu_ps(lane), _mm256_loadu_ps(lane + 8)};
}

// lane_tree() of lanes.h.
static inline float tree(Lanes s) {
    const __m256 eight = _mm256_add_ps(s.low, s.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

// Keeps GCC from loading v again for each use: a load more for every product.
static inline __m256 once(__m256 v) {
    asm("" : "+x"(v));
    return v;
}

// Three rows times two vectors, n a multiple of 16; tree() of all six at once. The lower half of a register is vector
// 0, the upper vector 1.
template <class Type>
static void dot_3x2(const typename Type::Element *rows, size_t stride, int n, const float *x, size_t x_stride,
                    float *out, size_t out_stride) {
    Lanes s[3][2];
#pragma GCC unroll 4
    for (int r = 0; r < 3; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < 2; ++j) s[r][j].low = s[r][j].high = _mm256_setzero_ps();
    for (int i = 0; i < n; i += 16) {
#pragma GCC unroll 4
        for (int r = 0; r < 3; ++r) {
            const __m256 w = once(Type::load(rows + size_t(r) * stride + i));
#pragma GCC unroll 4
            for (int j = 0; j < 2; ++j)
                s[r][j].low =
                    _mm256_add_ps(s[r][j].low, _mm256_mul_ps(w, _mm256_loadu_ps(x + size_t(j) * x_stride + i)));
        }
#pragma GCC unroll 4
        for (int r = 0; r < 3; ++r) {
            const __m256 w = once(Type::load(rows + size_t(r) * stride + i + 8));
#pragma GCC unroll 4
            for (int j = 0; j < 2; ++j)
                s[r][j].high =
                    _mm256_add_ps(s[r][j].high, _mm256_mul_ps(w, _mm256_loadu_ps(x + size_t(j) * x_stride + i + 8)));
        }
    }
    __m256 four[3];
#pragma GCC unroll 4
    for (int r = 0; r < 3; ++r) {
        const __m256 a = _mm256_add_ps(s[r][0].low, s[r][0].high), b = _mm256_add_ps(s[r][1].low, s[r][1].high);
        four[r] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    const __m256 two01 =
        _mm256_add_ps(_mm256_shuffle_ps(four[0], four[1], 0x44), _mm256_shuffle_ps(four[0], four[1], 0xee));
    const __m256 two2 = _mm256_add_ps(four[2], _mm256_shuffle_ps(four[2], four[2], 0xee));
    const __m256 o = _mm256_add_ps(_mm256_shuffle_ps(two01, two2, 0x88), _mm256_shuffle_ps(two01, two2, 0xdd));
    float of[8];
    _mm256_storeu_ps(of, o);
    __builtin_memcpy(out, of, 3 * sizeof *out);
    __builtin_memcpy(out + out_stride, of + 4, 3 * sizeof *out);
}

// Rows that are read once, from memory, times one vector: one row after the other, a line at a time.
template <class Type>
static void stream_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                        float *out) {
    constexpr int line = 64 / int(sizeof *rows);
    const size_t ahead = stride == size_t(n) ? prefetch_bytes : stride * sizeof *rows;
    for (int r = 0; r < n_rows; ++r) {
        const auto *row = rows + size_t(r) * stride;
        Lanes s = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        const auto add_16 = [&](int i) {
            add(s, Type::load(row + i), Type::load(row + i + 8), _mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8));
        };
        int i = 0;
        for (; i + line <= n; i += line) {
            _mm_prefetch(reinterpret_cast<const char *>(row + i) + ahead, _MM_HINT_T0);
            for (int k = 0; k < line; k += 16) add_16(i + k);
        }
        for (; i + 16 <= n; i += 16) add_16(i);
        if (i < n) add_tail<Type>(s, row + i, x + i, n - i);
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
        for (; r + 3 <= n_rows; r += 3)
            for (int j = 0; j < pairs; j += 2)
                dot_3x2<Type>(rows + size_t(r) * stride, stride, n, x + size_t(j) * x_stride, x_stride,
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
    __m256 sum[J][W];
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) sum[j][k] = _mm256_loadu_ps(out + size_t(j) * out_stride + 8 * k);
    for (int r = 0; r < n_rows; ++r) {
        __m256 v[W];
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) v[k] = Type::load(rows + size_t(r) * stride + 8 * k);
#pragma GCC unroll 8
        for (int j = 0; j < J; ++j) {
            const __m256 w = _mm256_set1_ps(weights[size_t(j) * weights_stride + size_t(r)]);
#pragma GCC unroll 8
            for (int k = 0; k < W; ++k) sum[j][k] = _mm256_add_ps(sum[j][k], _mm256_mul_ps(w, v[k]));
        }
    }
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) _mm256_storeu_ps(out + size_t(j) * out_stride + 8 * k, sum[j][k]);
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
        mix_columns<Type, 2, 4>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
                                out + size_t(j) * out_stride, out_stride);
    for (; j < n_x; ++j)
        mix_columns<Type, 8, 1>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
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

}  // namespace bitnet::avx2
