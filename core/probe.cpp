#include "core/probe.h"

#include "bitnet_c.h"
#include "core/alternative_layer.h"
#include "core/alternatives.h"
#include "core/ops.h"

namespace bitnet {

void lens(State &s, const float *hidden, float *normed, float *logits) {
    const Model &m = *s.model;
    if (is_alternative(m.semantics))
        Operations(m, s.kernels, m.semantics, -1).norm(BITNET_STAGE_FINAL_NORM, hidden, 1, m.hp.n_embd, normed);
    else
        rms_norm(s.kernels, hidden, m.output_norm, m.hp.n_embd, m.semantics.rms_eps, normed);
    if (m.semantics.head_input == DotInput::f16) round_to_half(normed, m.hp.n_embd);
    constexpr int rows_at_least = 32;
    s.pool.split(m.hp.n_vocab, rows_at_least, [&](int, int begin, int end) {
        float_matrix_rows(s.kernels, m.head, begin, end, normed, 1, logits + begin, size_t(m.hp.n_vocab));
    });
}

static const TernaryMatrix *weights_of(const LayerWeights &layer, int stage) {
    switch (stage) {
    case BITNET_STAGE_Q_PROJ: return &layer.wq;
    case BITNET_STAGE_K_PROJ: return &layer.wk;
    case BITNET_STAGE_V_PROJ: return &layer.wv;
    case BITNET_STAGE_ATTN_OUT: return &layer.wo;
    case BITNET_STAGE_FFN_GATE: return &layer.w_gate;
    case BITNET_STAGE_FFN_UP: return &layer.w_up;
    case BITNET_STAGE_FFN_OUT: return &layer.w_down;
    default: return nullptr;
    }
}

bool unquantised_linear(State &s, int stage, int layer, int row, std::vector<float> &out) {
    if (layer < 0 || layer >= s.model->hp.n_layer) return false;
    if (needs_alternative_layer(s.model->semantics, layer)) return false;  // it keeps its inputs elsewhere
    const TernaryMatrix *w = weights_of(s.model->layers[size_t(layer)], stage);
    if (!w) return false;
    out.resize(size_t(w->n_out));
    const float *x = s.normed.data() + size_t(row) * size_t(w->n_in);  // still what the linear read
    s.pool.split(w->n_out, 16, [&](int, int begin, int end) {
        float_ternary_rows(*w, begin, end, x, s.model->semantics.weight_scale, out.data() + begin);
    });
    return true;
}

}  // namespace bitnet
