// The operations of a layer under any semantics: imitations of other engines and of known faults, for replay and for
// layers that the forward pass leaves to core/alternative_layer.cpp. Under reference semantics every function gives the
// bits of the forward pass. Only what differs from the reference is plain code; the rest calls the kernels.
#pragma once

#include <cstdint>

#include "core/kernels/kernels.h"
#include "model/model.h"

namespace bitnet {

// Whether a layer with these semantics needs this file.
bool is_alternative(const Semantics &semantics);

// What the rows of one linear are given as: floats, or codes with their scales. Where the quantiser is on, a linear
// multiplies codes; `x` alone is what it multiplies where it is off.
struct LinearInput {
    int n_rows;
    const float *x;       // (n_rows, n_in) or null
    const int8_t *codes;  // (n_rows, n_in) or null
    const float *scales;  // (n_rows, scales_per_row())
};

class Operations {
public:
    // `semantics`: of this layer; `layer` -1 for what belongs to none.
    Operations(const Model &model, const Kernels &kernels, const Semantics &semantics, int layer)
        : model_(model), kernels_(kernels), sem_(semantics), layer_(layer) {}

    // A norm stage, final_norm included; a layer without the tensor copies its rows.
    void norm(int stage, const float *x, int n_rows, int n, float *out) const;
    bool has_norm(int stage) const { return norm_weight(stage) != nullptr; }

    // What a linear reads: whether as codes, and with how many scales a row of n elements.
    bool has_codes() const {
        return sem_.activation_quant != ActivationQuant::none && sem_.activation_quant != ActivationQuant::f16;
    }
    // Whether one integer sum makes an element of the output: not with a scale for each block, nor with f32 products.
    bool has_accumulators() const {
        return sem_.activation_quant == ActivationQuant::row_int8 ||
               sem_.activation_quant == ActivationQuant::tensor_int8;
    }
    int scales_per_row(int n) const;
    void quantize(const float *x, int n_rows, int n, int8_t *codes, float *scales) const;

    // A linear stage, output rows [begin, end); out and acc: (n_rows, n_out) at element 0.
    const TernaryMatrix &matrix(int stage) const;
    void accumulate(int stage, const int8_t *codes, int n_rows, int begin, int end, int32_t *acc) const;
    void scale(int stage, const int32_t *acc, const float *scales, int n_rows, int begin, int end, float *out) const;
    void linear(int stage, const LinearInput &in, int begin, int end, float *out) const;

    // x, out: (n_heads, head_dim) of one row; out may be x.
    void rope(const float *x, int n_heads, int position, float *out) const;
    // What attention reads in place of the queries, keys or values: f16 where the semantics say so.
    void round_query(float *q) const;
    void round_key_value(float *x, int n) const;
    // One query row over positions [0, n_kv): q, context (n_head, head_dim); keys, values (n_kv, n_head_kv, head_dim);
    // scores (n_head, n_kv).
    void attention_scores(const float *q, const float *keys, const float *values, int n_kv, float *scores) const;
    void attention_softmax(float *scores, int n_kv) const;
    // `weights`: (n_head, n_kv), the probabilities; the scores where sums_in_one_pass().
    bool sums_in_one_pass() const { return sem_.attention_sum != AttentionSum::f32; }
    void attention_context(const float *weights, const float *keys, const float *values, int n_kv,
                           float *context) const;

    void activation(const float *gate, const float *up, int n, float *out) const;  // out may be gate
    void add(const float *a, const float *b, size_t n, float *out) const;          // out may be a
    void embed(int32_t token, float *out) const;
    void head(const float *x, int n_rows, float *logits) const;
    // Rounds to the type that the semantics give every stage.
    void round_stage(float *x, size_t n) const;

private:
    const float *norm_weight(int stage) const;
    int kv_head_of(int head) const;
    float weight_scale(const TernaryMatrix &w) const;
    float apply_weight_scale(float y, const TernaryMatrix &w) const;
    bool reads_reference_codes() const;
    void read_row(const TernaryMatrix &w, int row, int8_t *weights) const;

    const Model &model_;
    const Kernels &kernels_;
    const Semantics &sem_;
    const int layer_;
};

}  // namespace bitnet
