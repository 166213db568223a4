#include "core/alternative_layer.h"

#include <cstring>
#include <vector>

#include "bitnet_c.h"
#include "core/alternatives.h"
#include "core/math.h"
#include "core/ops.h"
#include "model/error.h"
#include "model/half.h"

namespace bitnet {
namespace {

constexpr const char *kernel_name = "alternative";

class Layer {
public:
    Layer(State &s, const Rows &rows, int layer)
        : s_(s), rows_(rows), layer_(layer), hp_(s.model->hp), n_(size_t(rows.n)),
          ops_(*s.model, s.kernels, s.model->semantics.at(layer), layer) {}

    void run() {
        float *h = s_.h.data();
        std::vector<float> normed = norm(BITNET_STAGE_ATTN_NORM, h, hp_.n_embd);
        const std::vector<float> context = attention(normed);
        normed = norm(BITNET_STAGE_ATTN_SUB_NORM, context.data(), hp_.n_q(), hp_.n_head);
        quantize(BITNET_STAGE_ATTN_SUB_NORM, normed, hp_.n_q());
        add(h, linear(BITNET_STAGE_ATTN_OUT, normed), BITNET_STAGE_ATTN_RESIDUAL);

        normed = norm(BITNET_STAGE_FFN_NORM, h, hp_.n_embd);
        quantize(BITNET_STAGE_FFN_NORM, normed, hp_.n_embd);
        std::vector<float> gate = linear(BITNET_STAGE_FFN_GATE, normed);
        const std::vector<float> up = linear(BITNET_STAGE_FFN_UP, normed);
        ops_.activation(gate.data(), up.data(), int(gate.size()), gate.data());
        shown(BITNET_STAGE_FFN_ACT, gate, hp_.n_ff);
        normed = norm(BITNET_STAGE_FFN_SUB_NORM, gate.data(), hp_.n_ff);
        quantize(BITNET_STAGE_FFN_SUB_NORM, normed, hp_.n_ff);
        add(h, linear(BITNET_STAGE_FFN_OUT, normed), BITNET_STAGE_LAYER_OUT);
    }

private:
    void show_rows(int stage, int dtype, void *data, int width, int heads) {
        if (wanted(s_, rows_, stage, layer_)) emit(s_, rows_, stage, layer_, dtype, data, width, heads, kernel_name);
    }
    void shown(int stage, std::vector<float> &x, int width, int heads = 0) {
        show_rows(stage, BITNET_DTYPE_F32, x.data(), width, heads);
    }

    // A norm that the layer does not have copies its rows, and is no stage.
    std::vector<float> norm(int stage, const float *x, int width, int heads = 0) {
        std::vector<float> out(n_ * size_t(width));
        ops_.norm(stage, x, rows_.n, width, out.data());
        if (ops_.has_norm(stage)) shown(stage, out, width, heads);
        return out;
    }

    void quantize(int stage, const std::vector<float> &x, int width) {
        if (!ops_.has_codes()) return;
        const int per_row = ops_.scales_per_row(width);
        codes_.resize(x.size());
        scales_.resize(n_ * size_t(per_row));
        ops_.quantize(x.data(), rows_.n, width, codes_.data(), scales_.data());
        show_rows(stage | BITNET_STAGE_CODES, BITNET_DTYPE_I8, codes_.data(), width, 0);
        show_rows(stage | BITNET_STAGE_SCALE, BITNET_DTYPE_F32, scales_.data(), per_row, 0);
    }

    std::vector<float> linear(int stage, const std::vector<float> &x, int heads = 0) {
        const int n_out = ops_.matrix(stage).n_out;
        std::vector<float> out(n_ * size_t(n_out));
        if (ops_.has_accumulators() && wanted(s_, rows_, stage | BITNET_STAGE_ACC, layer_)) {
            std::vector<int32_t> acc(out.size());
            ops_.accumulate(stage, codes_.data(), rows_.n, 0, n_out, acc.data());
            show_rows(stage | BITNET_STAGE_ACC, BITNET_DTYPE_I32, acc.data(), n_out, heads);
        }
        ops_.linear(stage, {rows_.n, x.data(), codes_.data(), scales_.data()}, 0, n_out, out.data());
        shown(stage, out, n_out, heads);
        return out;
    }

    void add(float *h, const std::vector<float> &branch, int stage) {
        ops_.add(h, branch.data(), branch.size(), h);
        show_rows(stage, BITNET_DTYPE_F32, h, hp_.n_embd, 0);
    }

    void rotate(std::vector<float> &x, int n_heads) {
        for (size_t r = 0; r < n_; ++r) {
            float *row = x.data() + r * size_t(n_heads) * size_t(hp_.head_dim);
            ops_.rope(row, n_heads, rows_.first_position + int(r), row);
        }
    }

    // ---- the cache ----

    // each(pointer into the cache, offset in a row of (n_head_kv, head_dim)) for every head of a position.
    template <class T, class Each> void each_head(Kv which, int position, const Each &each) {
        for (int head = 0; head < hp_.n_head_kv; ++head)
            each(s_.kv<T>() + s_.kv_at(layer_, which, head, position), size_t(head) * size_t(hp_.head_dim));
    }

    void append(Kv which, int position, float *row) {
        ops_.round_key_value(row, hp_.n_kv());
        const int d = hp_.head_dim;
        if (s_.config.kv == KvType::f32)
            each_head<float>(which, position,
                             [&](float *at, size_t from) { std::memcpy(at, row + from, size_t(d) * sizeof(float)); });
        else
            each_head<uint16_t>(which, position, [&](uint16_t *at, size_t from) { to_half(row + from, d, at); });
    }

    // Positions [0, n) as (n, n_head_kv, head_dim).
    std::vector<float> cached(Kv which, int n) {
        const size_t d = size_t(hp_.head_dim);
        std::vector<float> out(size_t(n) * size_t(hp_.n_kv()));
        for (int p = 0; p < n; ++p) {
            float *row = out.data() + size_t(p) * size_t(hp_.n_kv());
            if (s_.config.kv == KvType::f32)
                each_head<float>(which, p,
                                 [&](const float *at, size_t to) { std::memcpy(row + to, at, d * sizeof(float)); });
            else
                each_head<uint16_t>(which, p, [&](const uint16_t *at, size_t to) {
                    for (size_t i = 0; i < d; ++i) row[to + i] = half_to_float(at[i]);
                });
        }
        return out;
    }

    std::vector<float> attention(const std::vector<float> &normed) {
        const size_t n_q = size_t(hp_.n_q()), n_kv = size_t(hp_.n_kv());
        quantize(BITNET_STAGE_ATTN_NORM, normed, hp_.n_embd);
        std::vector<float> q = linear(BITNET_STAGE_Q_PROJ, normed, hp_.n_head);
        std::vector<float> k = linear(BITNET_STAGE_K_PROJ, normed, hp_.n_head_kv);
        std::vector<float> v = linear(BITNET_STAGE_V_PROJ, normed, hp_.n_head_kv);
        rotate(q, hp_.n_head);
        rotate(k, hp_.n_head_kv);
        shown(BITNET_STAGE_Q_ROPE, q, hp_.n_q(), hp_.n_head);
        shown(BITNET_STAGE_K_ROPE, k, hp_.n_kv(), hp_.n_head_kv);
        for (size_t r = 0; r < n_; ++r) {
            ops_.round_query(q.data() + r * n_q);
            append(Kv::key, rows_.first_position + int(r), k.data() + r * n_kv);
            append(Kv::value, rows_.first_position + int(r), v.data() + r * n_kv);
        }
        const int n_positions = rows_.first_position + rows_.n;
        const std::vector<float> keys = cached(Kv::key, n_positions), values = cached(Kv::value, n_positions);
        std::vector<float> context(n_ * n_q), scores;
        for (int r = 0; r < rows_.n; ++r) {
            const Rows row = {1, rows_.first_row + r, rows_.first_position + r};
            const int seen = row.first_position + 1, n_scores = hp_.n_head * seen;
            scores.resize(size_t(n_scores));
            ops_.attention_scores(q.data() + size_t(r) * n_q, keys.data(), values.data(), seen, scores.data());
            show(s_, row, BITNET_STAGE_ATTN_SCORES, layer_, scores.data(), n_scores, hp_.n_head);
            float *out = context.data() + size_t(r) * n_q;
            if (ops_.sums_in_one_pass()) ops_.attention_context(scores.data(), keys.data(), values.data(), seen, out);
            ops_.attention_softmax(scores.data(), seen);
            show(s_, row, BITNET_STAGE_ATTN_SCORES_SOFTMAX, layer_, scores.data(), n_scores, hp_.n_head);
            if (!ops_.sums_in_one_pass()) ops_.attention_context(scores.data(), keys.data(), values.data(), seen, out);
        }
        shown(BITNET_STAGE_ATTN_CONTEXT, context, hp_.n_q(), hp_.n_head);
        return context;
    }

    State &s_;
    const Rows &rows_;
    const int layer_;
    const Hyperparameters &hp_;
    const size_t n_;
    const Operations ops_;
    std::vector<int8_t> codes_;  // of the latest norm
    std::vector<float> scales_;
};

}  // namespace

bool needs_alternative_layer(const Semantics &model, int layer) {
    const Semantics &own = model.at(layer);
    if (&own != &model) {
        Semantics alike = model;
        alike.layers.clear();
        if (own != alike) return true;
    }
    return is_alternative(own);
}

void check_layers(const Semantics &model, int n_layer) {
    if (model.layers.size() > size_t(n_layer))
        fail(Status::invalid, "semantics: layer %zu: the model has layers 0 to %d", model.layers.size() - 1,
             n_layer - 1);
}

void alternative_layer(State &s, const Rows &rows, int layer) { Layer(s, rows, layer).run(); }

}  // namespace bitnet
