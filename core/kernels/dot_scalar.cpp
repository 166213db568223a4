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
static void dot_rows(const T *rows, size_t stride, int n_rows, int n, const float *x, float *out, Widen widen) {
    for (int r = 0; r < n_rows; ++r) {
        const T *row = rows + size_t(r) * stride;
        float lane[16] = {};
        for (int i = 0; i < n; ++i) lane[i % 16] = lane[i % 16] + widen(row[i]) * x[i];
        out[r] = lane_tree(lane);
    }
}

template <class T, class Widen>
static void mix_rows(const T *rows, size_t stride, int n_rows, int n, const float *weights, float *out, Widen widen) {
    for (int i = 0; i < n; ++i) out[i] = 0.0f;
    for (int r = 0; r < n_rows; ++r)
        for (int i = 0; i < n; ++i) out[i] = out[i] + weights[r] * widen(rows[size_t(r) * stride + size_t(i)]);
}

void dot_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows(rows, stride, n_rows, n, x, out, as_float);
}
void dot_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows(rows, stride, n_rows, n, x, out, from_half);
}
void dot_rows_bf16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *x, float *out) {
    dot_rows(rows, stride, n_rows, n, x, out, from_bfloat);
}
void mix_rows_f32(const float *rows, size_t stride, int n_rows, int n, const float *weights, float *out) {
    mix_rows(rows, stride, n_rows, n, weights, out, as_float);
}
void mix_rows_f16(const uint16_t *rows, size_t stride, int n_rows, int n, const float *weights, float *out) {
    mix_rows(rows, stride, n_rows, n, weights, out, from_half);
}

}  // namespace bitnet::scalar
