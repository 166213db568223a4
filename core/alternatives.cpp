#include "core/alternatives.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "bitnet_c.h"
#include "core/kernels/lanes.h"
#include "core/math.h"
#include "core/ops.h"
#include "model/error.h"

namespace bitnet {

bool is_alternative(const Semantics &s) {
    const bool quantiser_known =
        s.activation_quant == ActivationQuant::row_int8 || s.activation_quant == ActivationQuant::none;
    const bool codes_known = s.code_order == CodeOrder::block128 || s.code_order == CodeOrder::block64;
    return !quantiser_known || !codes_known || s.norm != Norm::rms || s.rounding != Rounding::even ||
           s.accumulator != Accumulator::int32 || s.scale_type != ScaleType::f32 ||
           s.code_bits != CodeBits::high_first || s.code_map != CodeMap::mzp || s.kv_swap != KvSwap::off ||
           s.kv_heads != KvHeads::grouped || s.attention_scale != AttentionScale::root || s.attn_p != DotInput::f32 ||
           s.attention_sum != AttentionSum::f32 || s.stage_type != StageType::f32;
}

// ---- norms ------------------------------------------------------------------------------------------------------

const float *Operations::norm_weight(int stage) const {
    if (stage == BITNET_STAGE_FINAL_NORM) return model_.output_norm;
    const LayerWeights &w = model_.layers[size_t(layer_)];
    switch (stage) {
    case BITNET_STAGE_ATTN_NORM: return w.attn_norm;
    case BITNET_STAGE_ATTN_SUB_NORM: return sem_.attn_sub_norm ? w.attn_sub_norm : nullptr;
    case BITNET_STAGE_FFN_NORM: return w.ffn_norm;
    case BITNET_STAGE_FFN_SUB_NORM: return sem_.ffn_sub_norm ? w.ffn_sub_norm : nullptr;
    default: fail(Status::internal, "stage %d is no norm", stage);
    }
}

// What PyTorch's bf16 tensors do to a norm: the normalised row is rounded before its weight.
static void bf16_norm(const Kernels &kernels, const float *x, const float *w, int n, float eps, float *y) {
    const float r = float(1.0 / std::sqrt(kernels.sum_squares(x, n) / double(n) + double(eps)));
    for (int i = 0; i < n; ++i) y[i] = round_bf16(x[i] * r) * w[i];
}

static void centred_norm(const Kernels &kernels, const float *x, const float *w, int n, float eps, float *y) {
    double lane[16] = {};
    for (int i = 0; i < n; ++i) lane[i % 16] += double(x[i]);
    const float mean = float(lane_tree(lane) / double(n));
    std::vector<float> centred(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) centred[size_t(i)] = x[i] - mean;
    rms_norm(kernels, centred.data(), w, n, eps, y);
}

void Operations::norm(int stage, const float *x, int n_rows, int n, float *out) const {
    const float *w = norm_weight(stage);
    const float eps = sem_.rms_eps;
    const std::vector<float> ones(sem_.norm == Norm::unweighted ? size_t(n) : 0, 1.0f);
    for (int r = 0; r < n_rows; ++r, x += n, out += n) {
        if (!w || sem_.norm == Norm::skipped) {
            std::memcpy(out, x, size_t(n) * sizeof(float));
        } else if (sem_.norm == Norm::unweighted) {
            rms_norm(kernels_, x, ones.data(), n, eps, out);
        } else if (sem_.norm == Norm::centred) {
            centred_norm(kernels_, x, w, n, eps, out);
        } else if (sem_.stage_type == StageType::bf16) {
            bf16_norm(kernels_, x, w, n, eps, out);
        } else {
            rms_norm(kernels_, x, w, n, eps, out);
        }
        if (w && sem_.norm == Norm::weighted_twice)
            for (int i = 0; i < n; ++i) out[i] = out[i] * w[i];
        round_stage(out, size_t(n));
    }
}

// ---- RoPE -------------------------------------------------------------------------------------------------------

// Each product and each sum rounded, the table too.
static void bf16_rope(float *x, int n_heads, int head_dim, int n_rot, RopeOrder order, const float *c, const float *s) {
    for (int head = 0; head < n_heads; ++head, x += head_dim)
        for (int i = 0; i < n_rot / 2; ++i) {
            float &a = order == RopeOrder::neox ? x[i] : x[2 * i];
            float &b = order == RopeOrder::neox ? x[i + n_rot / 2] : x[2 * i + 1];
            const float cosine = round_bf16(c[i]), sine = round_bf16(s[i]), a0 = a, b0 = b;
            a = round_bf16(round_bf16(a0 * cosine) - round_bf16(b0 * sine));
            b = round_bf16(round_bf16(b0 * cosine) + round_bf16(a0 * sine));
        }
}

void Operations::rope(const float *x, int n_heads, int position, float *out) const {
    const Hyperparameters &hp = model_.hp;
    const size_t half = size_t(hp.n_rot / 2);
    std::vector<float> table(2 * half);
    rope_angles(position + sem_.rope_offset, hp.n_rot, sem_.rope_theta, sem_.rope_angle, table.data(),
                table.data() + half);
    if (out != x) std::memcpy(out, x, size_t(n_heads) * size_t(hp.head_dim) * sizeof(float));
    const auto turn = sem_.stage_type == StageType::bf16 ? bf16_rope : bitnet::rope;
    turn(out, n_heads, hp.head_dim, hp.n_rot, sem_.rope_order, table.data(), table.data() + half);
}

// ---- attention --------------------------------------------------------------------------------------------------

void Operations::round_query(float *q) const {
    if (sem_.attn_q == DotInput::f16) round_to_half(q, model_.hp.n_q());
}

void Operations::round_key_value(float *x, int n) const {
    if (sem_.kv == KvType::f16) round_to_half(x, n);
}

int Operations::kv_head_of(int head) const {
    const Hyperparameters &hp = model_.hp;
    return sem_.kv_heads == KvHeads::grouped ? head / (hp.n_head / hp.n_head_kv) : head % hp.n_head_kv;
}

void Operations::attention_scores(const float *q, const float *keys, const float *values, int n_kv,
                                  float *scores) const {
    const Hyperparameters &hp = model_.hp;
    const size_t d = size_t(hp.head_dim), stride = size_t(hp.n_kv());
    const float *rows = sem_.kv_swap == KvSwap::attention ? values : keys;
    const double root = std::sqrt(double(hp.head_dim));
    const float factor = sem_.attention_scale == AttentionScale::root   ? float(1.0 / root)
                         : sem_.attention_scale == AttentionScale::full ? float(1.0 / double(hp.head_dim))
                                                                        : 1.0f;
    for (int head = 0; head < hp.n_head; ++head) {
        float *out = scores + size_t(head) * size_t(n_kv);
        kernels_.dot_rows_f32(rows + size_t(kv_head_of(head)) * d, stride, n_kv, hp.head_dim, q + size_t(head) * d, d,
                              1, out, size_t(n_kv));
        for (int i = 0; i < n_kv; ++i) out[i] *= factor;
    }
    round_stage(scores, size_t(hp.n_head) * size_t(n_kv));
}

void Operations::attention_softmax(float *scores, int n_kv) const {
    for (int head = 0; head < model_.hp.n_head; ++head) kernels_.softmax(scores + size_t(head) * size_t(n_kv), n_kv);
    round_stage(scores, size_t(model_.hp.n_head) * size_t(n_kv));
}

// What ggml's flash attention does to few queries on a CPU: positions in order, a sum in f16 that is scaled down
// whenever a score is the largest so far, and one division at the end. A product of f16 and f32 is exact in f64, so
// that adding it rounds once to f32, as a fused multiply-add does.
static void one_pass_f16(const float *scores, const float *values, size_t stride, int n_kv, int d, float *out) {
    float largest = -__builtin_inff(), total = 0;
    std::fill_n(out, d, 0.0f);
    for (int p = 0; p < n_kv; ++p, values += stride) {
        float kept = 1, weight = 1;
        if (scores[p] > largest) {
            kept = exp_f32(largest - scores[p]);
            largest = scores[p];
            for (int i = 0; i < d; ++i) out[i] = out[i] * kept;
            round_to_half(out, d);
        } else {
            weight = exp_f32(scores[p] - largest);
        }
        for (int i = 0; i < d; ++i) out[i] = float(double(out[i]) + double(values[i]) * double(weight));
        round_to_half(out, d);
        total = total * kept + weight;
    }
    const float inverse = 1.0f / total;
    for (int i = 0; i < d; ++i) out[i] = out[i] * inverse;
}

void Operations::attention_context(const float *weights, const float *keys, const float *values, int n_kv,
                                   float *context) const {
    const Hyperparameters &hp = model_.hp;
    const size_t d = size_t(hp.head_dim), stride = size_t(hp.n_kv()), n = size_t(n_kv);
    const float *rows = sem_.kv_swap == KvSwap::attention ? keys : values;
    std::vector<float> rounded;
    if (sem_.attn_p == DotInput::f16 && !sums_in_one_pass()) {
        rounded.assign(weights, weights + size_t(hp.n_head) * n);
        round_to_half(rounded.data(), int(rounded.size()));
        weights = rounded.data();
    }
    std::fill_n(context, size_t(hp.n_q()), 0.0f);
    for (int head = 0; head < hp.n_head; ++head) {
        const float *own = weights + size_t(head) * n, *of_head = rows + size_t(kv_head_of(head)) * d;
        float *out = context + size_t(head) * d;
        if (sums_in_one_pass())
            one_pass_f16(own, of_head, stride, n_kv, hp.head_dim, out);
        else
            kernels_.mix_rows_f32(of_head, stride, n_kv, hp.head_dim, own, n, 1, out, d);
    }
    round_stage(context, size_t(hp.n_q()));
}

// ---- the rest ---------------------------------------------------------------------------------------------------

void Operations::activation(const float *gate, const float *up, int n, float *out) const {
    if (sem_.stage_type == StageType::bf16) {
        const std::vector<float> ones(static_cast<size_t>(n), 1.0f);
        std::vector<float> active(static_cast<size_t>(n));
        ffn_activation(kernels_, gate, ones.data(), n, sem_.activation, active.data());
        for (int i = 0; i < n; ++i) out[i] = round_bf16(round_bf16(active[size_t(i)]) * up[i]);
        return;
    }
    ffn_activation(kernels_, gate, up, n, sem_.activation, out);
}

void Operations::add(const float *a, const float *b, size_t n, float *out) const {
    for (size_t i = 0; i < n; ++i) out[i] = a[i] + b[i];
    round_stage(out, n);
}

void Operations::embed(int32_t token, float *out) const {
    float_row(model_.token_embd, token, out);
    round_stage(out, size_t(model_.hp.n_embd));
}

void Operations::head(const float *x, int n_rows, float *logits) const {
    const Hyperparameters &hp = model_.hp;
    const size_t n = size_t(n_rows) * size_t(hp.n_embd);
    std::vector<float> rounded;
    if (sem_.head_input == DotInput::f16) {
        rounded.assign(x, x + n);
        round_to_half(rounded.data(), int(n));
        x = rounded.data();
    }
    float_matrix_rows(kernels_, model_.head, 0, hp.n_vocab, x, n_rows, logits, size_t(hp.n_vocab));
    round_stage(logits, size_t(n_rows) * size_t(hp.n_vocab));
}

void Operations::round_stage(float *x, size_t n) const {
    if (sem_.stage_type != StageType::bf16) return;
    for (size_t i = 0; i < n; ++i) x[i] = round_bf16(x[i]);
}

}  // namespace bitnet
