// Operations on one row of activations. The plain form that defines the others.
#define BITNET_ISA scalar
#include "core/kernels/declare.h"
#include "core/kernels/elementwise.h"

namespace bitnet::scalar {

float absmax(const float *x, int n) {
    float m = 0.0f;
    for (int i = 0; i < n; ++i) {
        const float a = __builtin_fabsf(x[i]);
        m = a > m ? a : m;
    }
    return m;
}

int32_t quantize(const float *x, int n, float scale, int8_t *codes) {
    int32_t sum = 0;
    for (int i = 0; i < n; ++i) {
        float v = x[i] * scale;
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        codes[i] = int8_t(round_even_small(v));
        sum += codes[i];
    }
    return sum;
}

double sum_squares(const float *x, int n) {
    double lane[16] = {};
    for (int i = 0; i < n; ++i) lane[i % 16] = lane[i % 16] + double(x[i]) * double(x[i]);
    return lane_tree(lane);
}

void scale_norm(const float *x, float r, const float *w, int n, float *out) { scale_norm_of(x, r, w, n, out); }
void scale_accumulators(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    scale_accumulators_of(acc, n, s, weight_scale, out);
}
void relu2_gated(const float *gate, const float *up, int n, float *out) { relu2_gated_of(gate, up, n, out); }

void softmax(float *x, int n) {
    float m = -__builtin_inff();  // a NaN is passed over: its own exponential makes the sum NaN
    for (int i = 0; i < n; ++i) m = x[i] > m ? x[i] : m;
    float lane[16] = {};
    for (int i = 0; i < n; ++i) {
        x[i] = exp_f32(x[i] - m);
        lane[i % 16] = lane[i % 16] + x[i];
    }
    const float sum = lane_tree(lane);
    for (int i = 0; i < n; ++i) x[i] = x[i] / sum;
}

}  // namespace bitnet::scalar
