// The forward pass of BitNet b1.58, top to bottom; formulas and the order of every float operation: core/DESIGN.md.
// By far the most time is spent in linear(), the ternary products, and, when decoding, in head().
#include "core/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "bitnet_c.h"
#include "core/ops.h"
#include "core/show.h"
#include "model/error.h"

namespace bitnet {
namespace {

void norm(State &s, const Rows &rows, const float *x, const float *w, int n, float *y) {
    s.pool.split(rows.n, 1, [&](int, int begin, int end) {
        for (int r = begin; r < end; ++r)
            rms_norm(s.kernels, x + size_t(r) * size_t(n), w, n, s.model->semantics.rms_eps, y + size_t(r) * size_t(n));
    });
}

// Codes of the rows in s.normed, shared by every linear that reads them.
void quantize(State &s, const Rows &rows, int stage, int layer, int n) {
    if (s.model->semantics.activation_quant == ActivationQuant::none) return;
    s.pool.split(rows.n, 1, [&](int, int begin, int end) {
        for (int r = begin; r < end; ++r) {
            const size_t at = size_t(r) * size_t(n);
            s.code_scale.data()[r] =
                quantize_row(s.kernels, s.normed.data() + at, n, s.codes.data() + at, s.code_sum.data()[r]);
        }
    });
    if (wanted(s, rows, stage | BITNET_STAGE_CODES, layer))
        emit(s, rows, stage | BITNET_STAGE_CODES, layer, BITNET_DTYPE_I8, s.codes.data(), n, 0, s.kernels.isa);
    if (wanted(s, rows, stage | BITNET_STAGE_SCALE, layer))
        emit(s, rows, stage | BITNET_STAGE_SCALE, layer, BITNET_DTYPE_F32, s.code_scale.data(), 1, 0, s.kernels.isa);
}

struct Projection {
    const TernaryMatrix &w;
    float *out;  // (rows, w.n_out)
    int stage;
    int heads;  // shape it is shown in; 0: flat
};

// Output rows a thread takes at a time, so that they are scaled while they are in its cache.
constexpr int linear_block = 64;

// Accumulators of output rows [begin, end), int32, in the memory of p.out.
void accumulate(State &s, const Rows &rows, const Projection &p, int thread, int begin, int end) {
    const int n_in = p.w.n_in;
    const uint8_t *codes = p.w.codes + size_t(begin) * (size_t(n_in) / 4);
    int32_t *acc = reinterpret_cast<int32_t *>(p.out) + begin;
    if (rows.n == 1) return s.kernels.ternary_rows(codes, end - begin, n_in, s.codes.data(), s.code_sum.data()[0], acc);
    uint8_t *scratch = s.unpacked.data() + size_t(thread) * (s.unpacked.size() / size_t(s.config.n_threads));
    s.kernels.ternary_batch(codes, end - begin, n_in, s.codes.data(), size_t(n_in), s.code_sum.data(), rows.n, acc,
                            size_t(p.w.n_out), scratch);
}

void scale(State &s, const Rows &rows, const Projection &p, int begin, int end) {
    for (int r = 0; r < rows.n; ++r) {
        float *out = p.out + size_t(r) * size_t(p.w.n_out) + begin;
        scale_accumulators(reinterpret_cast<const int32_t *>(out), end - begin, s.code_scale.data()[r], p.w.scale,
                           s.model->semantics.weight_scale, out);
    }
}

void float_linear(State &s, const Rows &rows, const Projection &p, int begin, int end) {
    for (int r = 0; r < rows.n; ++r)
        float_ternary_rows(p.w, begin, end, s.normed.data() + size_t(r) * size_t(p.w.n_in),
                           s.model->semantics.weight_scale, p.out + size_t(r) * size_t(p.w.n_out) + begin);
}

// Every projection of the rows in s.normed (s.codes), in one parallel region.
void linear(State &s, const Rows &rows, int layer, std::initializer_list<Projection> projections) {
    const bool quantised = s.model->semantics.activation_quant == ActivationQuant::row_int8;
    bool show_accumulators = false;
    for (const Projection &p : projections)
        show_accumulators |= quantised && wanted(s, rows, p.stage | BITNET_STAGE_ACC, layer);

    const auto each_block = [&](const auto &work) {
        s.pool.run([&](int thread, int n_threads) {
            for (const Projection &p : projections) {
                const int64_t blocks = (p.w.n_out + 3) / 4;  // parts begin at multiples of the kernels' 4 rows
                const int first = int(blocks * thread / n_threads) * 4;
                const int last = std::min(int(blocks * (thread + 1) / n_threads) * 4, p.w.n_out);
                for (int begin = first; begin < last; begin += linear_block)
                    work(p, thread, begin, std::min(begin + linear_block, last));
            }
        });
    };
    if (!quantised) {
        each_block([&](const Projection &p, int, int begin, int end) { float_linear(s, rows, p, begin, end); });
    } else if (!show_accumulators) {
        each_block([&](const Projection &p, int thread, int begin, int end) {
            accumulate(s, rows, p, thread, begin, end);
            scale(s, rows, p, begin, end);
        });
    } else {
        each_block(
            [&](const Projection &p, int thread, int begin, int end) { accumulate(s, rows, p, thread, begin, end); });
        for (const Projection &p : projections)
            if (wanted(s, rows, p.stage | BITNET_STAGE_ACC, layer))
                emit(s, rows, p.stage | BITNET_STAGE_ACC, layer, BITNET_DTYPE_I32, p.out, p.w.n_out, p.heads,
                     s.kernels.ternary_name);
        each_block([&](const Projection &p, int, int begin, int end) { scale(s, rows, p, begin, end); });
    }
    for (const Projection &p : projections)
        if (wanted(s, rows, p.stage, layer))
            emit(s, rows, p.stage, layer, BITNET_DTYPE_F32, p.out, p.w.n_out, p.heads,
                 quantised ? s.kernels.ternary_name : "ternary.float");
}

void add_residual(State &s, const Rows &rows) {
    const int n = rows.n * s.model->hp.n_embd;
    float *h = s.h.data();
    const float *branch = s.branch.data();
    for (int i = 0; i < n; ++i) h[i] = h[i] + branch[i];
}

// ---- attention --------------------------------------------------------------------------------------------------

void rotate(State &s, const Rows &rows) {
    const Hyperparameters &hp = s.model->hp;
    for (int r = 0; r < rows.n; ++r) {
        const float *cosine = s.rope_cos.data() + size_t(r) * size_t(hp.n_rot / 2);
        const float *sine = s.rope_sin.data() + size_t(r) * size_t(hp.n_rot / 2);
        const RopeOrder order = s.model->semantics.rope_order;
        rope(s.q.data() + size_t(r) * size_t(hp.n_q()), hp.n_head, hp.head_dim, hp.n_rot, order, cosine, sine);
        rope(s.k.data() + size_t(r) * size_t(hp.n_kv()), hp.n_head_kv, hp.head_dim, hp.n_rot, order, cosine, sine);
    }
}

void store(State &s, void *cache, size_t element, const float *x) {
    if (s.config.kv == KvType::f32)
        std::memcpy(static_cast<float *>(cache) + element, x, size_t(s.model->hp.head_dim) * sizeof(float));
    else
        to_half(x, s.model->hp.head_dim, static_cast<uint16_t *>(cache) + element);
}

void append_kv(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    const KvLayer kv = s.kv_layer(layer);
    for (int r = 0; r < rows.n; ++r)
        for (int g = 0; g < hp.n_head_kv; ++g) {
            const size_t from = (size_t(r) * size_t(hp.n_head_kv) + size_t(g)) * size_t(hp.head_dim);
            const size_t to =
                (size_t(g) * size_t(s.config.n_ctx) + size_t(rows.first_position + r)) * size_t(hp.head_dim);
            store(s, kv.k, to, s.k.data() + from);
            store(s, kv.v, to, s.v.data() + from);
        }
}

// Where query head `head` of row `row` reads: n_kv positions of its group's keys and values.
struct HeadView {
    const float *q;
    float *out;
    size_t cache;  // element of (group, position 0)
    int n_kv;
};

HeadView head_view(State &s, const Rows &rows, int row, int head) {
    const Hyperparameters &hp = s.model->hp;
    const size_t at = (size_t(row) * size_t(hp.n_head) + size_t(head)) * size_t(hp.head_dim);
    const int group = head / (hp.n_head / hp.n_head_kv);
    return {s.q.data() + at, s.attended.data() + at, size_t(group) * size_t(s.config.n_ctx) * size_t(hp.head_dim),
            rows.first_position + row + 1};
}

void score(State &s, const HeadView &head, const KvLayer &kv, float *scores) {
    const int d = s.model->hp.head_dim;
    if (s.config.kv == KvType::f32)
        s.kernels.dot_rows_f32(static_cast<const float *>(kv.k) + head.cache, size_t(d), head.n_kv, d, head.q, scores);
    else
        s.kernels.dot_rows_f16(static_cast<const uint16_t *>(kv.k) + head.cache, size_t(d), head.n_kv, d, head.q,
                               scores);
    const float scale = float(1.0 / std::sqrt(double(d)));
    for (int i = 0; i < head.n_kv; ++i) scores[i] = scores[i] * scale;
}

void mix(State &s, const HeadView &head, const KvLayer &kv, const float *weights) {
    const int d = s.model->hp.head_dim;
    if (s.config.kv == KvType::f32)
        s.kernels.mix_rows_f32(static_cast<const float *>(kv.v) + head.cache, size_t(d), head.n_kv, d, weights,
                               head.out);
    else
        s.kernels.mix_rows_f16(static_cast<const uint16_t *>(kv.v) + head.cache, size_t(d), head.n_kv, d, weights,
                               head.out);
}

// The same, one row at a time, with all heads' weights side by side so that they can be shown (and replaced).
void attend_shown(State &s, const Rows &rows, int layer, const KvLayer &kv) {
    const int n_head = s.model->hp.n_head;
    if (s.traced_scores.size() == 0) s.traced_scores = Buffer<float>(size_t(n_head) * size_t(s.config.n_ctx));
    for (int r = 0; r < rows.n; ++r) {
        const Rows row = {1, rows.first_row + r, rows.first_position + r};
        const int n_kv = row.first_position + 1;
        const auto weights = [&](int head) { return s.traced_scores.data() + size_t(head) * size_t(n_kv); };
        const auto each_head = [&](const auto &work) {
            s.pool.split(n_head, 1, [&](int, int begin, int end) {
                for (int head = begin; head < end; ++head) work(head_view(s, rows, r, head), weights(head));
            });
        };
        each_head([&](const HeadView &head, float *w) { score(s, head, kv, w); });
        show(s, row, BITNET_STAGE_ATTN_SCORES, layer, weights(0), n_head * n_kv, n_head);
        each_head([&](const HeadView &head, float *w) { softmax(w, head.n_kv); });
        show(s, row, BITNET_STAGE_ATTN_SCORES_SOFTMAX, layer, weights(0), n_head * n_kv, n_head);
        each_head([&](const HeadView &head, float *w) { mix(s, head, kv, w); });
    }
}

void attend(State &s, const Rows &rows, int layer) {
    const KvLayer kv = s.kv_layer(layer);
    if (wanted(s, rows, BITNET_STAGE_ATTN_SCORES, layer) || wanted(s, rows, BITNET_STAGE_ATTN_SCORES_SOFTMAX, layer))
        return attend_shown(s, rows, layer, kv);
    const int n_head = s.model->hp.n_head;
    s.pool.run([&](int thread, int n_threads) {
        float *weights = s.scores.data() + size_t(thread) * size_t(s.config.n_ctx);
        // Later rows see more positions: dealing units out in turn keeps the threads equally busy.
        for (int unit = thread; unit < rows.n * n_head; unit += n_threads) {
            const HeadView head = head_view(s, rows, unit / n_head, unit % n_head);
            score(s, head, kv, weights);
            softmax(weights, head.n_kv);
            mix(s, head, kv, weights);
        }
    });
}

void attention_block(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    const LayerWeights &w = s.model->layers[size_t(layer)];
    float *normed = s.normed.data();

    norm(s, rows, s.h.data(), w.attn_norm, hp.n_embd, normed);
    show(s, rows, BITNET_STAGE_ATTN_NORM, layer, normed, hp.n_embd);
    quantize(s, rows, BITNET_STAGE_ATTN_NORM, layer, hp.n_embd);
    linear(s, rows, layer,
           {{w.wq, s.q.data(), BITNET_STAGE_Q_PROJ, hp.n_head},
            {w.wk, s.k.data(), BITNET_STAGE_K_PROJ, hp.n_head_kv},
            {w.wv, s.v.data(), BITNET_STAGE_V_PROJ, hp.n_head_kv}});
    rotate(s, rows);
    show(s, rows, BITNET_STAGE_Q_ROPE, layer, s.q.data(), hp.n_q(), hp.n_head);
    show(s, rows, BITNET_STAGE_K_ROPE, layer, s.k.data(), hp.n_kv(), hp.n_head_kv);
    if (s.model->semantics.attn_q == DotInput::f16) round_to_half(s.q.data(), rows.n * hp.n_q());
    append_kv(s, rows, layer);
    attend(s, rows, layer);
    float *attended = s.attended.data();
    show(s, rows, BITNET_STAGE_ATTN_CONTEXT, layer, attended, hp.n_q(), hp.n_head);
    if (s.model->semantics.attn_sub_norm && w.attn_sub_norm) {
        norm(s, rows, attended, w.attn_sub_norm, hp.n_q(), normed);
        show(s, rows, BITNET_STAGE_ATTN_SUB_NORM, layer, normed, hp.n_q(), hp.n_head);
    } else {
        std::memcpy(normed, attended, size_t(rows.n) * size_t(hp.n_q()) * sizeof(float));
    }
    quantize(s, rows, BITNET_STAGE_ATTN_SUB_NORM, layer, hp.n_q());
    linear(s, rows, layer, {{w.wo, s.branch.data(), BITNET_STAGE_ATTN_OUT, 0}});
    add_residual(s, rows);
    show(s, rows, BITNET_STAGE_ATTN_RESIDUAL, layer, s.h.data(), hp.n_embd);
}

// ---- feed forward -----------------------------------------------------------------------------------------------

void ffn_block(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    const LayerWeights &w = s.model->layers[size_t(layer)];
    float *normed = s.normed.data(), *gate = s.gate.data(), *up = s.up.data();

    norm(s, rows, s.h.data(), w.ffn_norm, hp.n_embd, normed);
    show(s, rows, BITNET_STAGE_FFN_NORM, layer, normed, hp.n_embd);
    quantize(s, rows, BITNET_STAGE_FFN_NORM, layer, hp.n_embd);
    linear(s, rows, layer, {{w.w_gate, gate, BITNET_STAGE_FFN_GATE, 0}, {w.w_up, up, BITNET_STAGE_FFN_UP, 0}});
    s.pool.split(rows.n, 1, [&](int, int begin, int end) {
        for (int r = begin; r < end; ++r) {
            const size_t at = size_t(r) * size_t(hp.n_ff);
            ffn_activation(gate + at, up + at, hp.n_ff, s.model->semantics.activation, gate + at);
        }
    });
    show(s, rows, BITNET_STAGE_FFN_ACT, layer, gate, hp.n_ff);
    if (s.model->semantics.ffn_sub_norm && w.ffn_sub_norm) {
        norm(s, rows, gate, w.ffn_sub_norm, hp.n_ff, normed);
        show(s, rows, BITNET_STAGE_FFN_SUB_NORM, layer, normed, hp.n_ff);
    } else {
        std::memcpy(normed, gate, size_t(rows.n) * size_t(hp.n_ff) * sizeof(float));
    }
    quantize(s, rows, BITNET_STAGE_FFN_SUB_NORM, layer, hp.n_ff);
    linear(s, rows, layer, {{w.w_down, s.branch.data(), BITNET_STAGE_FFN_OUT, 0}});
    add_residual(s, rows);
    show(s, rows, BITNET_STAGE_LAYER_OUT, layer, s.h.data(), hp.n_embd);
}

// ---- embedding and head -----------------------------------------------------------------------------------------

void embed(State &s, const Rows &rows, const EvalRequest &request) {
    const size_t n_embd = size_t(s.model->hp.n_embd);
    for (int r = 0; r < rows.n; ++r) {
        const size_t token = size_t(rows.first_row + r);
        float *out = s.h.data() + size_t(r) * n_embd;
        if (request.embeddings)
            std::memcpy(out, request.embeddings + token * n_embd, n_embd * sizeof(float));
        else
            float_row(s.model->token_embd, request.tokens[token], out);
    }
    show(s, rows, BITNET_STAGE_EMBEDDINGS, -1, s.h.data(), int(n_embd));
}

// Vocabulary rows that meet every token of the batch while they are in the cache.
constexpr int head_block = 32;

// Final norm and logits of rows [begin, begin + n) of the batch into hidden and logits.
void head(State &s, const Rows &rows, int begin, int n, float *hidden, float *logits) {
    const Hyperparameters &hp = s.model->hp;
    const Rows part = {n, rows.first_row + begin, rows.first_position + begin};
    const size_t n_embd = size_t(hp.n_embd), n_vocab = size_t(hp.n_vocab);
    norm(s, part, s.h.data() + size_t(begin) * n_embd, s.model->output_norm, hp.n_embd, hidden);
    show(s, part, BITNET_STAGE_FINAL_NORM, -1, hidden, hp.n_embd);
    const float *x = hidden;
    if (s.model->semantics.head_input == DotInput::f16) {
        std::memcpy(s.normed.data(), hidden, size_t(n) * n_embd * sizeof(float));
        round_to_half(s.normed.data(), n * hp.n_embd);
        x = s.normed.data();
    }
    s.pool.split(hp.n_vocab, head_block, [&](int, int first, int last) {
        for (int v = first; v < last; v += head_block)
            for (int r = 0; r < n; ++r)
                float_matrix_rows(s.kernels, s.model->head, v, std::min(v + head_block, last), x + size_t(r) * n_embd,
                                  logits + size_t(r) * n_vocab + size_t(v));
    });
    show(s, part, BITNET_STAGE_LOGITS, -1, logits, hp.n_vocab);
}

// Rows whose outputs nobody keeps but a trace wants go through a small buffer, a few at a time.
constexpr int unkept_rows = 8;

// Outputs of the batch: rows from keep_from on go to s.hidden and s.logits at row `out`; earlier ones are shown only.
void outputs(State &s, const Rows &rows, int keep_from, int out) {
    const size_t n_embd = size_t(s.model->hp.n_embd), n_vocab = size_t(s.model->hp.n_vocab);
    const bool shown = wanted(s, rows, BITNET_STAGE_FINAL_NORM, -1) || wanted(s, rows, BITNET_STAGE_LOGITS, -1);
    if (shown && keep_from > 0) {
        Buffer<float> hidden(unkept_rows * n_embd), logits(unkept_rows * n_vocab);
        for (int r = 0; r < keep_from; r += unkept_rows)
            head(s, rows, r, std::min(unkept_rows, keep_from - r), hidden.data(), logits.data());
    }
    if (keep_from < rows.n)
        head(s, rows, keep_from, rows.n - keep_from, s.hidden.data() + size_t(out) * n_embd,
             s.logits.data() + size_t(out) * n_vocab);
}

void prepare_rope(State &s, const Rows &rows) {
    const Semantics &sem = s.model->semantics;
    const size_t half = size_t(s.model->hp.n_rot / 2);
    for (int r = 0; r < rows.n; ++r)
        rope_angles(rows.first_position + r + sem.rope_offset, s.model->hp.n_rot, sem.rope_theta, sem.rope_angle,
                    s.rope_cos.data() + size_t(r) * half, s.rope_sin.data() + size_t(r) * half);
}

void forward(State &s, const Rows &rows, const EvalRequest &request, int keep_from, int out) {
    embed(s, rows, request);
    prepare_rope(s, rows);
    for (int layer = 0; layer < s.model->hp.n_layer; ++layer) {
        if (request.cancel && request.cancel(request.cancel_user))
            fail(Status::cancelled, "eval: cancelled before layer %d of %d", layer, s.model->hp.n_layer);
        attention_block(s, rows, layer);
        ffn_block(s, rows, layer);
    }
    outputs(s, rows, keep_from, out);
}

}  // namespace

void validate(const State &s, const EvalRequest &request) {
    if (request.n == 0) fail(Status::invalid, "eval: 0 tokens: expected at least 1");
    if (request.n > size_t(s.config.n_ctx - s.position))
        fail(Status::overflow, "eval: %zu tokens at position %d: the context holds %d positions", request.n, s.position,
             s.config.n_ctx);
    if (request.embeddings) return;
    for (size_t i = 0; i < request.n; ++i)
        if (request.tokens[i] < 0 || request.tokens[i] >= s.model->hp.n_vocab)
            fail(Status::invalid, "eval: token %zu is %d: expected 0 to %d", i, request.tokens[i],
                 s.model->hp.n_vocab - 1);
}

void eval(State &s, const EvalRequest &request) {
    validate(s, request);
    const int n = int(request.n);
    const int n_outputs = request.keep == KeepLogits::all ? n : request.keep == KeepLogits::last ? 1 : 0;
    s.n_outputs = 0;
    s.reserve_outputs(size_t(n_outputs));
    const int first_kept = n - n_outputs;
    for (int done = 0; done < n; done += s.config.n_batch) {
        const Rows rows = {std::min(s.config.n_batch, n - done), done, s.position + done};
        const int keep_from = std::clamp(first_kept - done, 0, rows.n);
        forward(s, rows, request, keep_from, std::max(done - first_kept, 0));
    }
    s.position += n;
    s.n_outputs = n_outputs;
}

}  // namespace bitnet
