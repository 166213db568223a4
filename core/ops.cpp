#include "core/ops.h"

#include <cmath>
#include <cstring>

#include "core/kernels/lanes.h"
#include "core/math.h"

namespace bitnet {

void rms_norm(const Kernels &kernels, const float *x, const float *w, int n, float eps, float *y) {
    const double mean = kernels.sum_squares(x, n) / double(n);
    const float r = float(1.0 / std::sqrt(mean + double(eps)));
    kernels.scale_norm(x, r, w, n, y);
}

float quantize_row(const Kernels &kernels, const float *x, int n, int8_t *codes, int32_t &code_sum) {
    float m = kernels.absmax(x, n);
    m = m > 1e-5f ? m : 1e-5f;
    const float s = 127.0f / m;
    code_sum = kernels.quantize(x, n, s, codes);
    return s;
}

// memcpy because acc and out may be the same memory with two types.
template <class Scale> static void scale_each(const int32_t *acc, int n, float *out, const Scale &scale) {
    for (int i = 0; i < n; ++i) {
        int32_t a;
        std::memcpy(&a, acc + i, sizeof a);
        const float y = scale(float(a));
        std::memcpy(out + i, &y, sizeof y);
    }
}

void scale_accumulators(const Kernels &kernels, const int32_t *acc, int n, float s, float weight_scale, WeightScale how,
                        float *out) {
    switch (how) {
    case WeightScale::multiply: return kernels.scale_accumulators(acc, n, s, weight_scale, out);
    case WeightScale::divide: return scale_each(acc, n, out, [=](float a) { return (a / s) / weight_scale; });
    case WeightScale::none: return scale_each(acc, n, out, [=](float a) { return a / s; });
    }
}

void float_ternary_rows(const TernaryMatrix &w, int begin, int end, const float *x, WeightScale how, float *out) {
    for (int r = begin; r < end; ++r) {
        const uint8_t *row = w.codes + size_t(r) * (size_t(w.n_in) / 4);
        float lane[16] = {};
        for (int i = 0; i < w.n_in; ++i) {
            const int code = (row[i / 128 * 32 + i % 32] >> (6 - i % 128 / 32 * 2)) & 3;
            lane[i % 16] = lane[i % 16] + float(code - 1) * x[i];
        }
        const float y = lane_tree(lane);
        out[r - begin] = how == WeightScale::multiply ? y * w.scale : how == WeightScale::divide ? y / w.scale : y;
    }
}

void rope_angles(int position, int n_rot, double theta, RopeAngle how, float *cosine, float *sine) {
    const double log_theta = log_f64(theta);
    const float step = float(exp_f64(-2.0 / double(n_rot) * log_theta));
    float angle_f32 = float(position);
    for (int i = 0; i < n_rot / 2; ++i) {
        double angle = angle_f32;
        if (how == RopeAngle::exact) angle = double(position) * exp_f64(-2.0 * double(i) / double(n_rot) * log_theta);
        double s, c;
        sin_cos_f64(angle, s, c);
        cosine[i] = float(c);
        sine[i] = float(s);
        angle_f32 = angle_f32 * step;
    }
}

void rope(float *x, int n_heads, int head_dim, int n_rot, RopeOrder order, const float *cosine, const float *sine) {
    const int half = n_rot / 2;
    for (int head = 0; head < n_heads; ++head, x += head_dim)
        for (int i = 0; i < half; ++i) {
            float &a = order == RopeOrder::neox ? x[i] : x[2 * i];
            float &b = order == RopeOrder::neox ? x[i + half] : x[2 * i + 1];
            const float a0 = a, b0 = b;
            a = a0 * cosine[i] - b0 * sine[i];
            b = a0 * sine[i] + b0 * cosine[i];
        }
}

template <class Function>
static void gated(const float *gate, const float *up, int n, float *out, const Function &function) {
    for (int i = 0; i < n; ++i) out[i] = function(gate[i]) * up[i];
}

// A negative value becomes 0; written so that NaN stays NaN.
static inline float relu(float x) { return x < 0.0f ? 0.0f : x; }

void ffn_activation(const Kernels &kernels, const float *gate, const float *up, int n, Activation activation,
                    float *out) {
    switch (activation) {
    case Activation::relu2: return kernels.relu2_gated(gate, up, n, out);
    case Activation::relu: return gated(gate, up, n, out, [](float x) { return relu(x); });
    case Activation::silu: return gated(gate, up, n, out, [](float x) { return x / (1.0f + exp_f32(-x)); });
    case Activation::gelu:  // tanh form (Hendrycks and Gimpel, arXiv:1606.08415); tanh y = 1 - 2 / (e^2y + 1)
        return gated(gate, up, n, out, [](float x) {
            const float y = 0.7978845608028654f * (x + 0.044715f * ((x * x) * x));
            return (0.5f * x) * (2.0f - 2.0f / (exp_f32(2.0f * y) + 1.0f));
        });
    }
}

void float_row(const FloatMatrix &m, int row, float *out) {
    const char *p = static_cast<const char *>(m.data) + size_t(row) * m.row_bytes();
    if (m.type == TensorType::f32) {
        std::memcpy(out, p, m.row_bytes());
        return;
    }
    const uint16_t *bits = reinterpret_cast<const uint16_t *>(p);
    if (m.type == TensorType::f16)
        for (int i = 0; i < m.n_cols; ++i) out[i] = half_to_float(bits[i]);
    else
        for (int i = 0; i < m.n_cols; ++i) out[i] = bfloat_to_float(bits[i]);
}

// Rows from `first` on, `stride` elements apart.
static void dot_rows(const Kernels &kernels, const FloatMatrix &m, int first, size_t stride, int n_rows, const float *x,
                     int n_x, float *out, size_t out_stride) {
    const char *p = static_cast<const char *>(m.data) + size_t(first) * m.row_bytes();
    const size_t n = size_t(m.n_cols);
    switch (m.type) {
    case TensorType::f32:
        return kernels.dot_rows_f32(reinterpret_cast<const float *>(p), stride, n_rows, m.n_cols, x, n, n_x, out,
                                    out_stride);
    case TensorType::f16:
        return kernels.dot_rows_f16(reinterpret_cast<const uint16_t *>(p), stride, n_rows, m.n_cols, x, n, n_x, out,
                                    out_stride);
    default:
        return kernels.dot_rows_bf16(reinterpret_cast<const uint16_t *>(p), stride, n_rows, m.n_cols, x, n, n_x, out,
                                     out_stride);
    }
}

void float_matrix_rows(const Kernels &kernels, const FloatMatrix &m, int begin, int end, const float *x, int n_x,
                       float *out, size_t out_stride) {
    dot_rows(kernels, m, begin, size_t(m.n_cols), end - begin, x, n_x, out, out_stride);
}

float float_matrix_row(const Kernels &kernels, const FloatMatrix &m, int row, int next, const float *x) {
    float dot;
    dot_rows(kernels, m, row, size_t(next - row) * size_t(m.n_cols), 1, x, 1, &dot, 1);
    return dot;
}

void round_to_half(float *x, int n) {
    for (int i = 0; i < n; ++i) x[i] = half_to_float(float_to_half(x[i]));
}

float round_bf16(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    if (x != x) return x;
    return __builtin_bit_cast(float, (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000);
}

void to_half(const float *x, int n, uint16_t *out) {
    for (int i = 0; i < n; ++i) out[i] = float_to_half(x[i]);
}

}  // namespace bitnet
