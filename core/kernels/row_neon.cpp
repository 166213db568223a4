// One row of activations with NEON.
#define BITNET_ISA neon
#include "core/kernels/declare.h"
#include "core/kernels/elementwise.h"
#include <arm_neon.h>

namespace bitnet::neon {

float absmax(const float *x, int n) {
    float32x4_t m[4] = {};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; ++k) {
            const float32x4_t a = vabsq_f32(vld1q_f32(x + i + 4 * k));
            m[k] = vbslq_f32(vcgtq_f32(a, m[k]), a, m[k]);  // fmaxnm would let a signalling NaN win
        }
    float best = vmaxvq_f32(vmaxq_f32(vmaxq_f32(m[0], m[1]), vmaxq_f32(m[2], m[3])));
    for (; i < n; ++i) {
        const float a = __builtin_fabsf(x[i]);
        best = a > best ? a : best;
    }
    return best;
}

static int32x4_t codes_of(float32x4_t v) {
    v = vminnmq_f32(vmaxnmq_f32(v, vdupq_n_f32(-127.0f)), vdupq_n_f32(127.0f));  // NaN becomes -127
    return vcvtnq_s32_f32(v);
}

int32_t quantize(const float *x, int n, float scale, int8_t *codes) {
    int32x4_t sums = vdupq_n_s32(0);
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        int32x4_t q[4];
        for (int k = 0; k < 4; ++k) {
            q[k] = codes_of(vmulq_n_f32(vld1q_f32(x + i + 4 * k), scale));
            sums = vaddq_s32(sums, q[k]);
        }
        const int16x8_t low = vcombine_s16(vmovn_s32(q[0]), vmovn_s32(q[1]));
        const int16x8_t high = vcombine_s16(vmovn_s32(q[2]), vmovn_s32(q[3]));
        vst1q_s8(codes + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
    int32_t sum = vaddvq_s32(sums);
    for (; i < n; ++i) {
        codes[i] = int8_t(vgetq_lane_s32(codes_of(vdupq_n_f32(x[i] * scale)), 0));
        sum += codes[i];
    }
    return sum;
}

double sum_squares(const float *x, int n) {
    float64x2_t acc[8] = {};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 8; ++k) {
            const float64x2_t v = vcvt_f64_f32(vld1_f32(x + i + 2 * k));
            acc[k] = vaddq_f64(acc[k], vmulq_f64(v, v));
        }
    double lane[16];
    for (int k = 0; k < 8; ++k) vst1q_f64(lane + 2 * k, acc[k]);
    for (; i < n; ++i) lane[i % 16] = lane[i % 16] + double(x[i]) * double(x[i]);
    return lane_tree(lane);
}

void scale_norm(const float *x, float r, const float *w, int n, float *out) { scale_norm_of(x, r, w, n, out); }
void scale_accumulators(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    scale_accumulators_of(acc, n, s, weight_scale, out);
}
void relu2_gated(const float *gate, const float *up, int n, float *out) { relu2_gated_of(gate, up, n, out); }
void softmax(float *x, int n) { softmax_of<4>(x, n); }

}  // namespace bitnet::neon
