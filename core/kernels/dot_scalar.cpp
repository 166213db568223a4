// Float rows times a vector, and weighted sums of rows. The plain form that defines the others.
#define BITNET_ISA scalar
#include "core/kernels/declare.h"
#include "core/kernels/lanes.h"
#include "core/math.h"

namespace bitnet::scalar {

static float as_float(float v) { return v; }
static float from_half(uint16_t v) { return half_to_float(v); }
static float from_bfloat(uint16_t v) { return bfloat_to_float(v); }

template <class T, class Widen>
static void dot_rows(const T *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                     float *out, size_t out_stride, Widen widen) {
    for (int j = 0; j < n_x; ++j)
        for (int r = 0; r < n_rows; ++r) {
            const T *row = rows + size_t(r) * stride;
            const float *v = x + size_t(j) * x_stride;
            float lane[16] = {};
            for (int i = 0; i < n; ++i) lane[i % 16] = lane[i % 16] + widen(row[i]) * v[i];
            out[size_t(j) * out_stride + size_t(r)] = lane_tree(lane);
        }
}

template <class T, class Widen>
static void mix_rows(const T *rows, size_t stride, int n_rows, int n, const float *weights, size_t weights_stride,
                     int n_x, float *out, size_t out_stride, Widen widen) {
    for (int j = 0; j < n_x; ++j)
        for (int r = 0; r < n_rows; ++r) {
            const float w = weights[size_t(j) * weights_stride + size_t(r)];
            float *o = out + size_t(j) * out_stride;
            for (int i = 0; i < n; ++i) o[i] = o[i] + w * widen(rows[size_t(r) * stride + size_t(i)]);
        }
}

void dot_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                  float *out, size_t out_stride) {
    dot_rows(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride, as_float);
}
void dot_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                  float *out, size_t out_stride) {
    dot_rows(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride, from_half);
}
void dot_rows_bf16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, size_t x_stride, int n_x,
                   float *out, size_t out_stride) {
    dot_rows(rows, stride, n_rows, n, x, x_stride, n_x, out, out_stride, from_bfloat);
}
void mix_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *weights, size_t weights_stride,
                  int n_x, float *out, size_t out_stride) {
    mix_rows(rows, stride, n_rows, n, weights, weights_stride, n_x, out, out_stride, as_float);
}
void mix_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *weights, size_t weights_stride,
                  int n_x, float *out, size_t out_stride) {
    mix_rows(rows, stride, n_rows, n, weights, weights_stride, n_x, out, out_stride, from_half);
}

}  // namespace bitnet::scalar
