// Float rows times vectors, and weighted sums of rows, with NEON: four registers are the 16 lanes.
#define BITNET_ISA neon
#include "core/kernels/declare.h"
#include "core/math.h"
#include <arm_neon.h>

namespace bitnet::neon {

static constexpr int prefetch_bytes = 1024;

struct F32 {
    using Element = float;
    static float32x4_t load(const float *p) { return vld1q_f32(p); }
    static float one(const float *p) { return *p; }
};
struct F16 {
    using Element = uint16_t;
    static float32x4_t load(const uint16_t *p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static float one(const uint16_t *p) { return half_to_float(*p); }
};
struct BF16 {
    using Element = uint16_t;
    static float32x4_t load(const uint16_t *p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16)); }
    static float one(const uint16_t *p) { return bfloat_to_float(*p); }
};

// lane_tree() of lanes.h on lanes 4 * k .. 4 * k + 3 in v[k].
static float tree(const float32x4_t (&v)[4]) {
    const float32x4_t four = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
    const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vpadds_f32(two);
}

// R rows times X vectors: out[j * out_stride + r].
template <class Type, int R, int X>
static void dot_block(const typename Type::Element *rows, size_t stride, int n, const float *x, size_t x_stride,
                      float *out, size_t out_stride) {
    float32x4_t sum[R][X][4] = {};
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        for (int r = 0; r < R; ++r)
            __builtin_prefetch(reinterpret_cast<const char *>(rows + size_t(r) * stride + i) + prefetch_bytes);
        for (int k = 0; k < 4; ++k) {
            float32x4_t v[X];
            for (int j = 0; j < X; ++j) v[j] = vld1q_f32(x + size_t(j) * x_stride + i + 4 * k);
            for (int r = 0; r < R; ++r) {
                const float32x4_t w = Type::load(rows + size_t(r) * stride + i + 4 * k);
                for (int j = 0; j < X; ++j) sum[r][j][k] = vaddq_f32(sum[r][j][k], vmulq_f32(w, v[j]));
            }
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < X; ++j) {
            if (i < n) {
                float lane[16];
                for (int k = 0; k < 4; ++k) vst1q_f32(lane + 4 * k, sum[r][j][k]);
                for (int e = i; e < n; ++e)
                    lane[e - i] = lane[e - i] + Type::one(rows + size_t(r) * stride + e) * x[size_t(j) * x_stride + e];
                for (int k = 0; k < 4; ++k) sum[r][j][k] = vld1q_f32(lane + 4 * k);
            }
            out[size_t(j) * out_stride + size_t(r)] = tree(sum[r][j]);
        }
}

// Four rows share the loads of one vector; four vectors share those of one row.
template <class Type>
static void dot_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *x,
                     size_t x_stride, int n_x, float *out, size_t out_stride) {
    int r = 0;
    if (n_x == 1)
        for (; r + 4 <= n_rows; r += 4)
            dot_block<Type, 4, 1>(rows + size_t(r) * stride, stride, n, x, x_stride, out + r, out_stride);
    for (; r < n_rows; ++r) {
        const auto *row = rows + size_t(r) * stride;
        int j = 0;
        for (; j + 4 <= n_x; j += 4)
            dot_block<Type, 1, 4>(row, stride, n, x + size_t(j) * x_stride, x_stride, out + size_t(j) * out_stride + r,
                                  out_stride);
        for (; j < n_x; ++j)
            dot_block<Type, 1, 1>(row, stride, n, x + size_t(j) * x_stride, x_stride, out + size_t(j) * out_stride + r,
                                  out_stride);
    }
}

// 4 * W columns for X vectors.
template <class Type, int X, int W>
static void mix_block(const typename Type::Element *rows, size_t stride, int n_rows, const float *weights,
                      size_t weights_stride, float *out, size_t out_stride) {
    float32x4_t sum[X][W];
    for (int j = 0; j < X; ++j)
        for (int k = 0; k < W; ++k) sum[j][k] = vld1q_f32(out + size_t(j) * out_stride + 4 * k);
    for (int r = 0; r < n_rows; ++r) {
        float32x4_t v[W];
        for (int k = 0; k < W; ++k) v[k] = Type::load(rows + size_t(r) * stride + 4 * k);
        for (int j = 0; j < X; ++j) {
            const float32x4_t w = vld1q_dup_f32(weights + size_t(j) * weights_stride + r);
            for (int k = 0; k < W; ++k) sum[j][k] = vaddq_f32(sum[j][k], vmulq_f32(w, v[k]));
        }
    }
    for (int j = 0; j < X; ++j)
        for (int k = 0; k < W; ++k) vst1q_f32(out + size_t(j) * out_stride + 4 * k, sum[j][k]);
}

template <class Type, int X>
static void mix_vectors(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                        size_t weights_stride, float *out, size_t out_stride) {
    constexpr int wide = 16 / X;  // registers of sums
    int i = 0;
    for (; i + 4 * wide <= n; i += 4 * wide)
        mix_block<Type, X, wide>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    for (; i + 4 <= n; i += 4)
        mix_block<Type, X, 1>(rows + i, stride, n_rows, weights, weights_stride, out + i, out_stride);
    for (; i < n; ++i)
        for (int j = 0; j < X; ++j) {
            float *o = out + size_t(j) * out_stride + i;
            for (int r = 0; r < n_rows; ++r)
                *o = *o + weights[size_t(j) * weights_stride + size_t(r)] * Type::one(rows + size_t(r) * stride + i);
        }
}

template <class Type>
static void mix_rows(const typename Type::Element *rows, size_t stride, int n_rows, int n, const float *weights,
                     size_t weights_stride, int n_x, float *out, size_t out_stride) {
    int j = 0;
    for (; j + 4 <= n_x; j += 4)
        mix_vectors<Type, 4>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
                             out + size_t(j) * out_stride, out_stride);
    for (; j < n_x; ++j)
        mix_vectors<Type, 1>(rows, stride, n_rows, n, weights + size_t(j) * weights_stride, weights_stride,
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

}  // namespace bitnet::neon
