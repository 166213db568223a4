// One row of activations with SSE2, which every x86-64 has.
#define BITNET_ISA sse2
#include "core/kernels/declare.h"
#include "core/kernels/elementwise.h"
#include <immintrin.h>

namespace bitnet::sse2 {

float absmax(const float *x, int n) {
    const __m128 magnitude = _mm_castsi128_ps(_mm_set1_epi32(0x7fffffff));
    __m128 m[2] = {_mm_setzero_ps(), _mm_setzero_ps()};
    int i = 0;
    // max_ps returns its second operand when the first is NaN.
    for (; i + 8 <= n; i += 8) {
        m[0] = _mm_max_ps(_mm_and_ps(_mm_loadu_ps(x + i), magnitude), m[0]);
        m[1] = _mm_max_ps(_mm_and_ps(_mm_loadu_ps(x + i + 4), magnitude), m[1]);
    }
    float lane[4], best = 0.0f;
    _mm_storeu_ps(lane, _mm_max_ps(m[0], m[1]));
    for (float v : lane) best = v > best ? v : best;
    for (; i < n; ++i) {
        const float a = __builtin_fabsf(x[i]);
        best = a > best ? a : best;
    }
    return best;
}

int32_t quantize(const float *x, int n, float scale, int8_t *codes) {
    const __m128 s = _mm_set1_ps(scale), low = _mm_set1_ps(-127.0f), high = _mm_set1_ps(127.0f);
    __m128i sums = _mm_setzero_si128();
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        const __m128 a = _mm_mul_ps(_mm_loadu_ps(x + i), s), b = _mm_mul_ps(_mm_loadu_ps(x + i + 4), s);
        const __m128i p = _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(a, low), high));  // NaN becomes low
        const __m128i q = _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(b, low), high));
        sums = _mm_add_epi32(sums, _mm_add_epi32(p, q));
        const __m128i words = _mm_packs_epi32(p, q);
        _mm_storel_epi64(reinterpret_cast<__m128i *>(codes + i), _mm_packs_epi16(words, words));
    }
    int32_t lane[4], sum = 0;
    _mm_storeu_si128(reinterpret_cast<__m128i *>(lane), sums);
    for (int32_t v : lane) sum += v;
    for (; i < n; ++i) {
        float v = x[i] * scale;
        v = v > -127.0f ? v : -127.0f;
        v = v < 127.0f ? v : 127.0f;
        codes[i] = int8_t(_mm_cvtss_si32(_mm_set_ss(v)));
        sum += codes[i];
    }
    return sum;
}

double sum_squares(const float *x, int n) {
    __m128d acc[8];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) acc[k] = _mm_setzero_pd();
    int i = 0;
    for (; i + 16 <= n; i += 16)
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) {
            const __m128 v = _mm_loadu_ps(x + i + 4 * k);
            const __m128d a = _mm_cvtps_pd(v), b = _mm_cvtps_pd(_mm_movehl_ps(v, v));
            acc[2 * k] = _mm_add_pd(acc[2 * k], _mm_mul_pd(a, a));
            acc[2 * k + 1] = _mm_add_pd(acc[2 * k + 1], _mm_mul_pd(b, b));
        }
    double lane[16];
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) _mm_storeu_pd(lane + 2 * k, acc[k]);
    for (; i < n; ++i) lane[i % 16] = lane[i % 16] + double(x[i]) * double(x[i]);
    return lane_tree(lane);
}

void scale_norm(const float *x, float r, const float *w, int n, float *out) { scale_norm_of(x, r, w, n, out); }
void scale_accumulators(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    scale_accumulators_of(acc, n, s, weight_scale, out);
}
void relu2_gated(const float *gate, const float *up, int n, float *out) { relu2_gated_of(gate, up, n, out); }
void softmax(float *x, int n) { softmax_of<4>(x, n); }

}  // namespace bitnet::sse2
