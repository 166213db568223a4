// One row of activations: largest magnitude, int8 codes, sum of squares. The plain form that defines the others.
#define BITNET_ISA scalar
#include "core/kernels/declare.h"
#include "core/kernels/lanes.h"
#include "core/math.h"

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

}  // namespace bitnet::scalar
