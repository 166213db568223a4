// One row of activations with AVX2.
#define BITNET_ISA avx2
#include "core/kernels/declare.h"
#include "core/kernels/elementwise.h"
#include <immintrin.h>

namespace bitnet::avx2 {

float absmax(const float *x, int n) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    __m256 m = _mm256_setzero_ps();
    int i = 0;
    // max_ps returns its second operand when the first is NaN.
    for (; i + 8 <= n; i += 8) m = _mm256_max_ps(_mm256_and_ps(_mm256_loadu_ps(x + i), magnitude), m);
    float lane[8], best = 0.0f;
    _mm256_storeu_ps(lane, m);
    for (float v : lane) best = v > best ? v : best;
    for (; i < n; ++i) {
        const float a = __builtin_fabsf(x[i]);
        best = a > best ? a : best;
    }
    return best;
}

int32_t quantize(const float *x, int n, float scale, int8_t *codes) {
    const __m256 s = _mm256_set1_ps(scale), low = _mm256_set1_ps(-127.0f), high = _mm256_set1_ps(127.0f);
    __m256i sums = _mm256_setzero_si256();
    int i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), s);
        v = _mm256_min_ps(_mm256_max_ps(v, low), high);  // NaN becomes low
        const __m256i q = _mm256_cvtps_epi32(v);
        sums = _mm256_add_epi32(sums, q);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(codes + i), _mm_packs_epi16(words, words));
    }
    int32_t lane[8], sum = 0;
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(lane), sums);
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
    __m256d acc[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    int i = 0;
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 4; ++k) {
            const __m256d v = _mm256_cvtps_pd(_mm_loadu_ps(x + i + 4 * k));
            acc[k] = _mm256_add_pd(acc[k], _mm256_mul_pd(v, v));
        }
    double lane[16];
    for (int k = 0; k < 4; ++k) _mm256_storeu_pd(lane + 4 * k, acc[k]);
    for (; i < n; ++i) lane[i % 16] = lane[i % 16] + double(x[i]) * double(x[i]);
    return lane_tree(lane);
}

void scale_norm(const float *x, float r, const float *w, int n, float *out) { scale_norm_of(x, r, w, n, out); }
void scale_accumulators(const int32_t *acc, int n, float s, float weight_scale, float *out) {
    scale_accumulators_of(acc, n, s, weight_scale, out);
}
void relu2_gated(const float *gate, const float *up, int n, float *out) { relu2_gated_of(gate, up, n, out); }
void softmax(float *x, int n) { softmax_of<8>(x, n); }

}  // namespace bitnet::avx2
