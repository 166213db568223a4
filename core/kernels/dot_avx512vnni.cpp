// Float rows times a vector, and weighted sums of rows, with AVX-512: one register is the 16 lanes.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include "core/kernels/pace_x86.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

// Bytes ahead that rows are asked for, in the order in which they lie in memory: they are read once (core/DESIGN.md).
static constexpr int prefetch_bytes = 6144, keys_prefetch_bytes = 8192, values_prefetch_bytes = 6144;

static inline void ask_for(const void *p) { _mm_prefetch(static_cast<const char *>(p), _MM_HINT_T0); }

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

// Lanes of R rows times J vectors: each pair its own register. Stream: the rows are met for the first time.
template <class Type, int R, int J, bool Stream = false>
static inline void multiply(const typename Type::Element *rows, size_t stride, int n, const float *x, size_t x_stride,
                            __m512 (&sum)[R][J]) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) sum[r][j] = _mm512_setzero_ps();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        __m512 v[J];
#pragma GCC unroll 4
        for (int j = 0; j < J; ++j) v[j] = _mm512_loadu_ps(x + size_t(j) * x_stride + i);
        if constexpr (Stream)
            for (int line = 0; line < R * 16 * int(sizeof *rows); line += 64)
                ask_for(reinterpret_cast<const char *>(rows + R * i) + keys_prefetch_bytes + line);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const auto *p = rows + size_t(r) * stride + i;
            const __m512 w = Type::load(p);
#pragma GCC unroll 4
            for (int j = 0; j < J; ++j) sum[r][j] = _mm512_add_ps(sum[r][j], _mm512_mul_ps(w, v[j]));
        }
    }
    if (i < n) {
        const __mmask16 mask = tail_mask(n - i);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
            const __m512 w = Type::load(rows + size_t(r) * stride + i, mask);
#pragma GCC unroll 4
            for (int j = 0; j < J; ++j) {
                const __m512 v = _mm512_maskz_loadu_ps(mask, x + size_t(j) * x_stride + i);
                sum[r][j] = _mm512_mask_add_ps(sum[r][j], mask, sum[r][j], _mm512_mul_ps(w, v));
            }
        }
    }
}

// tree() of four registers at once: lanes 8 apart, then 4 apart. What is left: four lanes of each.
static inline __m512 halve_twice(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd = _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// Four rows times four vectors.
template <class Type, bool Stream>
static void dot_4x4(const typename Type::Element *rows, size_t stride, int n, const float *x, size_t x_stride,
                    float *out, size_t out_stride) {
    __m512 s[4][4];
    multiply<Type, 4, 4, Stream>(rows, stride, n, x, x_stride, s);
    const __m512 t0 = halve_twice(s[0][0], s[1][0], s[2][0], s[3][0]);  // group r of four lanes: row r times vector 0
    const __m512 t1 = halve_twice(s[0][1], s[1][1], s[2][1], s[3][1]);
    const __m512 t2 = halve_twice(s[0][2], s[1][2], s[2][2], s[3][2]);
    const __m512 t3 = halve_twice(s[0][3], s[1][3], s[2][3], s[3][3]);
    const __m512 u0 = _mm512_add_ps(_mm512_shuffle_ps(t0, t1, 0x44), _mm512_shuffle_ps(t0, t1, 0xee));
    const __m512 u1 = _mm512_add_ps(_mm512_shuffle_ps(t2, t3, 0x44), _mm512_shuffle_ps(t2, t3, 0xee));
    const __m512 v = _mm512_add_ps(_mm512_shuffle_ps(u0, u1, 0x88), _mm512_shuffle_ps(u0, u1, 0xdd));
    const __m512i by_vector = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512 o = _mm512_permutexvar_ps(by_vector, v);
    _mm_storeu_ps(out, _mm512_castps512_ps128(o));
    _mm_storeu_ps(out + out_stride, _mm512_extractf32x4_ps(o, 1));
    _mm_storeu_ps(out + 2 * out_stride, _mm512_extractf32x4_ps(o, 2));
    _mm_storeu_ps(out + 3 * out_stride, _mm512_extractf32x4_ps(o, 3));
}

template <class Type, int J>
static void dot_1xj(const typename Type::Element *row, int n, const float *x, size_t x_stride, float *out,
                    size_t out_stride) {
    __m512 s[1][J];
    multiply<Type, 1, J>(row, 0, n, x, x_stride, s);
#pragma GCC unroll 4
    for (int j = 0; j < J; ++j) out[size_t(j) * out_stride] = tree(s[0][j]);
}

// Rows that are read once, from memory, times one vector: one row after the other, a line at a time.
template <class Type>
static void stream_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                        float *out) {
    constexpr int line = 64 / int(sizeof *rows);
    const size_t ahead = stride == size_t(n) ? prefetch_bytes : stride * sizeof *rows;
    for (int r = 0; r < n_rows; ++r) {
        const auto *row = rows + size_t(r) * stride;
        __m512 s = _mm512_setzero_ps();
        const auto add = [&](int i) {
            s = _mm512_add_ps(s, _mm512_mul_ps(Type::load(row + i), _mm512_loadu_ps(x + i)));
        };
        int i = 0;
        for (; i + line <= n; i += line) {
            ask_for(reinterpret_cast<const char *>(row + i) + ahead);
            for (int k = 0; k < line; k += 16) add(i + k);
        }
        for (; i + 16 <= n; i += 16) add(i);
        if (i < n) {
            const __mmask16 mask = tail_mask(n - i);
            s = _mm512_mask_add_ps(s, mask, s,
                                   _mm512_mul_ps(Type::load(row + i, mask), _mm512_maskz_loadu_ps(mask, x + i)));
        }
        out[r] = tree(s);
    }
}

template <class Type>
static void dot_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                     size_t x_stride, int n_x, float *out, size_t out_stride) {
    if (n_x == 1) return stream_rows<Type>(rows, stride, n_rows, n, x, out);
    int j = 0;
    for (; j + 4 <= n_x; j += 4) {
        const float *v = x + size_t(j) * x_stride;
        float *o = out + size_t(j) * out_stride;
        int r = 0;
        if (j == 0)
            for (; r + 4 <= n_rows; r += 4)
                dot_4x4<Type, true>(rows + size_t(r) * stride, stride, n, v, x_stride, o + r, out_stride);
        for (; r + 4 <= n_rows; r += 4)
            dot_4x4<Type, false>(rows + size_t(r) * stride, stride, n, v, x_stride, o + r, out_stride);
        for (; r < n_rows; ++r) dot_1xj<Type, 4>(rows + size_t(r) * stride, n, v, x_stride, o + r, out_stride);
    }
    for (; j < n_x; ++j)
        stream_rows<Type>(rows, stride, n_rows, n, x + size_t(j) * x_stride, out + size_t(j) * out_stride);
}

// 16 W columns for J vectors of weights; the sums stay in registers over all rows. Ahead: columns of each row that are
// asked for on the way; 0: the rows are in the cache.
template <class Type, int W, int J, int Ahead>
static void mix_block(const typename Type::Element *rows, size_t stride, int n_rows, const float *weights,
                      size_t weights_stride, float *out, size_t out_stride) {
    __m512 sum[J][W];
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) sum[j][k] = _mm512_loadu_ps(out + size_t(j) * out_stride + 16 * k);
    for (int r = 0; r < n_rows; ++r) {
        const auto *p = rows + size_t(r) * stride;
        if constexpr (Ahead > 0) {
            for (int line = 0; line < Ahead * int(sizeof *p); line += 64)
                ask_for(reinterpret_cast<const char *>(p) + values_prefetch_bytes + line);
            pace<Ahead / 4>();
        }
        __m512 v[W];
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) v[k] = Type::load(p + 16 * k);
#pragma GCC unroll 16
        for (int j = 0; j < J; ++j) {
            const __m512 w = _mm512_set1_ps(weights[size_t(j) * weights_stride + size_t(r)]);
#pragma GCC unroll 8
            for (int k = 0; k < W; ++k) sum[j][k] = _mm512_add_ps(sum[j][k], _mm512_mul_ps(w, v[k]));
        }
    }
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j)
#pragma GCC unroll 8
        for (int k = 0; k < W; ++k) _mm512_storeu_ps(out + size_t(j) * out_stride + 16 * k, sum[j][k]);
}

template <class Type>
static void mix_tail(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     float *out) {
    const __mmask16 mask = tail_mask(n);
    __m512 sum = _mm512_maskz_loadu_ps(mask, out);
    for (int r = 0; r < n_rows; ++r)
        sum =
            _mm512_add_ps(sum, _mm512_mul_ps(_mm512_set1_ps(weights[r]), Type::load(rows + size_t(r) * stride, mask)));
    _mm512_mask_storeu_ps(out, mask, sum);
}

template <class Type, int J>
static void mix_columns(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                        size_t weights_stride, float *out, size_t out_stride) {
    int i = 0;
    for (; i + 128 <= n; i += 128) {
        mix_block<Type, 4, J, 128>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
        mix_block<Type, 4, J, 0>(rows + i + 64, stride, n_rows, weights, weights_stride, out + i + 64, out_stride);
    }
    for (; i + 64 <= n; i += 64)
        mix_block<Type, 4, J, 64>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    for (; i + 16 <= n; i += 16)
        mix_block<Type, 1, J, 16>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    if (i < n)
        for (int j = 0; j < J; ++j)
            mix_tail<Type>(rows + i, stride, n_rows, n - i, weights + size_t(j) * weights_stride,
                           out + size_t(j) * out_stride + i);
}

// J vectors past the same 16 columns, as often as there are J of them; their weights are read from memory where they
// are multiplied. Returns how many vectors that was.
template <class Type, int J>
static int mix_many(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                    size_t weights_stride, int n_x, float *out, size_t out_stride) {
    const int whole = n_x / J * J;
    for (int i = 0; i + 16 <= n; i += 16)
        for (int j = 0; j < whole; j += J)
            mix_block<Type, 1, J, 0>(rows + i, stride, n_rows, weights + size_t(j) * weights_stride, weights_stride,
                                     out + size_t(j) * out_stride + i, out_stride);
    const int left = n % 16;
    for (int j = 0; left && j < whole; ++j)
        mix_tail<Type>(rows + n - left, stride, n_rows, left, weights + size_t(j) * weights_stride,
                       out + size_t(j) * out_stride + n - left);
    return whole;
}

// Rows that are taken together when they come from memory: few, so that their second half is still in the first cache.
static constexpr int rows_from_memory = 4;

template <class Type>
static void mix_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     size_t weights_stride, int n_x, float *out, size_t out_stride) {
    if (n_x >= 8) {
        int j = mix_many<Type, 16>(rows, stride, n_rows, n, weights, weights_stride, n_x, out, out_stride);
        j += mix_many<Type, 8>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride, n_x - j,
                               out + size_t(j) * out_stride, out_stride);
        weights += size_t(j) * weights_stride;
        out += size_t(j) * out_stride;
        n_x -= j;
    }
    for (int r = 0; r < n_rows; r += rows_from_memory) {
        const auto *p = rows + size_t(r) * stride;
        const float *w = weights + r;
        const int some = n_rows - r < rows_from_memory ? n_rows - r : rows_from_memory;
        int j = 0;
        for (; j + 4 <= n_x; j += 4)
            mix_columns<Type, 4>(p, stride, some, n, w + size_t(j) * weights_stride, weights_stride,
                                 out + size_t(j) * out_stride, out_stride);
        for (; j < n_x; ++j)
            mix_columns<Type, 1>(p, stride, some, n, w + size_t(j) * weights_stride, weights_stride,
                                 out + size_t(j) * out_stride, out_stride);
    }
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

}  // namespace bitnet::avx512vnni
