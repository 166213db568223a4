// The operations of a layer on rows of activations, each with its order of float operations (core/DESIGN.md). No state
// beyond the arguments: the forward pass, tests and replay call the same functions.
#pragma once

#include <cstdint>

#include "core/kernels/kernels.h"
#include "model/model.h"

namespace bitnet {

// y = x / sqrt(mean(x^2) + eps) * w. x, w, y: (n); y may be x. Zhang and Sennrich 2019, arXiv:1910.07467.
void rms_norm(const Kernels &kernels, const float *x, const float *w, int n, float eps, float *y);

// Absmax quantiser of BitNet b1.58 (arXiv:2402.17764): returns s = 127 / max(1e-5, max|x|); codes = rint(x * s).
float quantize_row(const Kernels &kernels, const float *x, int n, int8_t *codes, int32_t &code_sum);

// out[i] = ((float)acc[i] / s) * weight_scale (or / weight_scale, or neither); acc and out may be the same memory.
void scale_accumulators(const Kernels &kernels, const int32_t *acc, int n, float s, float weight_scale, WeightScale how,
                        float *out);

// The same linear with activations left in f32: sum of +-x[i] in 16 lanes, then the weight scale. rows [begin, end).
void float_ternary_rows(const TernaryMatrix &w, int begin, int end, const float *x, WeightScale how, float *out);

// cos and sin of position * theta^(-2i / n_rot), i < n_rot / 2. Su et al. 2021, arXiv:2104.09864.
void rope_angles(int position, int n_rot, double theta, RopeAngle how, float *cosine, float *sine);
// Turns the first n_rot dimensions of each head in place. x: (n_heads, head_dim).
void rope(float *x, int n_heads, int head_dim, int n_rot, RopeOrder order, const float *cosine, const float *sine);

// out = activation(gate) * up, all (n); out may be gate.
void ffn_activation(const Kernels &kernels, const float *gate, const float *up, int n, Activation activation,
                    float *out);

// Exact conversion of one row of a float matrix to f32.
void float_row(const FloatMatrix &m, int row, float *out);
// out[j * out_stride + r - begin] = dot(row r, x + j * n_cols) for n_x vectors.
void float_matrix_rows(const Kernels &kernels, const FloatMatrix &m, int begin, int end, const float *x, int n_x,
                       float *out, size_t out_stride);
// dot(row, x), the same bits; row `next`, not before `row`, is asked for on the way: rows far apart in ascending order
// are read as fast as rows that follow each other.
float float_matrix_row(const Kernels &kernels, const FloatMatrix &m, int row, int next, const float *x);

void round_to_half(float *x, int n);  // to f16 and back
float round_bf16(float x);            // to bf16 and back, ties to even
void to_half(const float *x, int n, uint16_t *out);

}  // namespace bitnet
