// One row of activations with AVX-512.
#define BITNET_ISA avx512vnni
#include "core/kernels/declare.h"
#include "core/kernels/elementwise.h"
#include <immintrin.h>

namespace bitnet::avx512vnni {

static __mmask16 tail_mask(int n) { return __mmask16((1u << n) - 1u); }

float absmax(const float *x, int n) {
    __m512 m = _mm512_setzero_ps();
    int i = 0;
    // max_ps returns its second operand when the first is NaN.
    for (; i + 16 <= n; i += 16) m = _mm512_max_ps(_mm512_abs_ps(_mm512_loadu_ps(x + i)), m);
    if (i < n) m = _mm512_max_ps(_mm512_abs_ps(_mm512_maskz_loadu_ps(tail_mask(n - i), x + i)), m);
    return _mm512_reduce_max_ps(m);  // no NaN left: any order gives the same
}

static int32_t quantize_lanes(__m512 x, __m512 scale, __mmask16 mask, int8_t *codes) {
    __m512 v = _mm512_mul_ps(x, scale);
    v = _mm512_min_ps(_mm512_max_ps(v, _mm512_set1_ps(-127.0f)), _mm512_set1_ps(127.0f));  // NaN becomes -127
    const __m512i q = _mm512_cvtps_epi32(v);
    _mm_mask_storeu_epi8(codes, mask, _mm512_cvtepi32_epi8(q));
    return _mm512_mask_reduce_add_epi32(mask, q);
}

int32_t quantize(const float *x, int n, float scale, int8_t *codes) {
    const __m512 s = _mm512_set1_ps(scale);
    int32_t sum = 0;
    int i = 0;
    for (; i + 16 <= n; i += 16) sum += quantize_lanes(_mm512_loadu_ps(x + i), s, 0xffff, codes + i);
    if (i < n) sum += quantize_lanes(_mm512_maskz_loadu_ps(tail_mask(n - i), x + i), s, tail_mask(n - i), codes + i);
    return sum;
}

double sum_squares(const float *x, int n) {
    __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
    int i = 0;
    for (; i + 16 <= n; i += 16) {
        const __m512d a = _mm512_cvtps_pd(_mm256_loadu_ps(x + i)), b = _mm512_cvtps_pd(_mm256_loadu_ps(x + i + 8));
        low = _mm512_add_pd(low, _mm512_mul_pd(a, a));
        high = _mm512_add_pd(high, _mm512_mul_pd(b, b));
    }
    double lane[16];
    _mm512_storeu_pd(lane, low);
    _mm512_storeu_pd(lane + 8, high);
    for (; i < n; ++i) lane[i % 16] = lane[i % 16] + double(x[i]) * double(x[i]);
    return lane_tree(lane);
}

void scale_norm(const float *x, float r, const float *w, int n, float *out) { scale_norm_of(x, r, w, n, out); }
void scale_accumulators(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    scale_accumulators_of(acc, n, s, weight_scale, out);
}
void relu2_gated(const float *gate, const float *up, int n, float *out) { relu2_gated_of(gate, up, n, out); }
void softmax(float *x, int n) { softmax_of<16>(x, n); }

}  // namespace bitnet::avx512vnni
