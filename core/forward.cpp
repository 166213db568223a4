// The forward pass of BitNet b1.58, top to bottom; formulas and the order of every float operation: core/DESIGN.md.
// By far the most time is spent in linear(), the ternary products, and, when decoding, in head().
#include "core/forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "bitnet_c.h"
#include "core/alternative_layer.h"
#include "core/alternatives.h"
#include "core/dense_weights.h"
#include "core/ops.h"
#include "core/show.h"
#include "model/error.h"

namespace bitnet {
namespace {

// ---- rows -------------------------------------------------------------------------------------------------------

// One link of a chain: run(r) for each row, then show().
template <class Run, class Show> struct Step {
    Run run;
    Show show;
};
template <class Run, class Show> Step(Run, Show) -> Step<Run, Show>;

bool any_wanted(const State &s, const Rows &rows, int layer, std::initializer_list<int> stages) {
    return std::any_of(stages.begin(), stages.end(), [&](int stage) { return wanted(s, rows, stage, layer); });
}

// A chain of operations on rows, whose stages are `stages`. While nobody looks at them a row goes through the whole
// chain while it is in the cache; otherwise each step is done for all rows and shown before the next.
template <class... Steps>
void each_row(State &s, const Rows &rows, int layer, std::initializer_list<int> stages, const Steps &...steps) {
    const auto on_all_rows = [&](const auto &body) {
        s.pool.split(rows.n, 1, [&](int, int begin, int end) {
            for (int r = begin; r < end; ++r) body(r);
        });
    };
    if (!any_wanted(s, rows, layer, stages)) return on_all_rows([&](int r) { (steps.run(r), ...); });
    ((on_all_rows(steps.run), steps.show()), ...);
}

void norm_row(const State &s, const float *x, const float *w, int n, float *y, int r) {
    rms_norm(s.kernels, x + size_t(r) * size_t(n), w, n, s.model->semantics.rms_eps, y + size_t(r) * size_t(n));
}

// A norm that may be missing: then the row is only copied.
void sub_norm_row(const State &s, const float *x, const float *w, int n, float *y, int r) {
    if (w) return norm_row(s, x, w, n, y, r);
    std::memcpy(y + size_t(r) * size_t(n), x + size_t(r) * size_t(n), size_t(n) * sizeof(float));
}

// Codes of a row in s.normed, shared by every linear that reads it.
void quantize(State &s, int n, int r) {
    if (s.model->semantics.activation_quant == ActivationQuant::none) return;
    const size_t at = size_t(r) * size_t(n);
    s.code_scale.data()[r] =
        quantize_row(s.kernels, s.normed.data() + at, n, s.codes.data() + at, s.code_sum.data()[r]);
}

void show_codes(State &s, const Rows &rows, int stage, int layer, int n) {
    if (s.model->semantics.activation_quant == ActivationQuant::none) return;
    if (wanted(s, rows, stage | BITNET_STAGE_CODES, layer))
        emit(s, rows, stage | BITNET_STAGE_CODES, layer, BITNET_DTYPE_I8, s.codes.data(), n, 0, s.kernels.isa);
    if (wanted(s, rows, stage | BITNET_STAGE_SCALE, layer))
        emit(s, rows, stage | BITNET_STAGE_SCALE, layer, BITNET_DTYPE_F32, s.code_scale.data(), 1, 0, s.kernels.isa);
}

void add_residual(State &s, int r) {
    const size_t n = size_t(s.model->hp.n_embd);
    float *h = s.h.data() + size_t(r) * n;
    const float *branch = s.branch.data() + size_t(r) * n;
    for (size_t i = 0; i < n; ++i) h[i] = h[i] + branch[i];
}

// ---- linears ----------------------------------------------------------------------------------------------------

struct Projection {
    const TernaryMatrix &w;
    float *out;  // (rows, w.n_out)
    int stage;
    int heads;  // shape it is shown in; 0: flat
};

// Of n output rows, those a thread takes at a time, to scale them while they are in the cache: what the kernel works on
// at once, in equal parts. A single token streams through all of a thread's rows instead.
int rows_at_a_time(const State &s, int n_tokens, int n) {
    const int most = n_tokens == 1 ? n : n_tokens <= s.kernels.few_tokens ? 64 : s.kernels.batch_rows;
    const int parts = std::max((n + most - 1) / std::max(most, 1), 1);
    return ((n + parts - 1) / parts + 15) / 16 * 16;
}

// Accumulators of output rows [begin, end), int32, in the memory of p.out.
void accumulate(State &s, const Rows &rows, const Projection &p, int thread, int begin, int end) {
    const int n_in = p.w.n_in, n_rows = end - begin;
    const uint8_t *codes = p.w.codes + size_t(begin) * (size_t(n_in) / 4);
    int32_t *acc = reinterpret_cast<int32_t *>(p.out) + begin;
    const int8_t *x = s.codes.data();
    const int32_t *x_sums = s.code_sum.data();
    uint8_t *scratch = s.unpacked.data() + size_t(thread) * (s.unpacked.size() / size_t(s.config.n_threads));
    if (rows.n > s.kernels.few_tokens)
        return s.kernels.ternary_batch(codes, n_rows, n_in, x, size_t(n_in), x_sums, rows.n, acc, size_t(p.w.n_out),
                                       scratch);
    if (s.dense) {
        const uint8_t *dense = s.dense->rows_of(p.w) + size_t(begin) * dense_row_bytes(n_in);
        for (int t = 0; t < rows.n; ++t)
            s.dense_rows(dense, n_rows, n_in, x + size_t(t) * size_t(n_in), x_sums[t],
                         acc + size_t(t) * size_t(p.w.n_out), scratch);
        return;
    }
    for (int t = 0; t < rows.n; ++t)
        s.kernels.ternary_rows(codes, n_rows, n_in, x + size_t(t) * size_t(n_in), x_sums[t],
                               acc + size_t(t) * size_t(p.w.n_out), scratch);
}

void scale(State &s, const Rows &rows, const Projection &p, int begin, int end) {
    for (int r = 0; r < rows.n; ++r) {
        float *out = p.out + size_t(r) * size_t(p.w.n_out) + begin;
        scale_accumulators(s.kernels, reinterpret_cast<const int32_t *>(out), end - begin, s.code_scale.data()[r],
                           p.w.scale, s.model->semantics.weight_scale, out);
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
    const char *kernel = !quantised                                  ? "ternary.float"
                         : s.dense && rows.n <= s.kernels.few_tokens ? DenseWeights::kernel_name
                                                                     : s.kernels.ternary_name;
    bool show_accumulators = false;
    for (const Projection &p : projections)
        show_accumulators |= quantised && wanted(s, rows, p.stage | BITNET_STAGE_ACC, layer);

    const auto each_block = [&](const auto &work) {
        s.pool.run([&](int thread, int n_threads) {
            for (const Projection &p : projections) {
                const int grain = rows.n == 1 ? 4 : 16;  // the kernels like whole multiples of it
                const int64_t blocks = (p.w.n_out + grain - 1) / grain;
                const int first = int(blocks * thread / n_threads) * grain;
                const int last = std::min(int(blocks * (thread + 1) / n_threads) * grain, p.w.n_out);
                const int step = rows_at_a_time(s, rows.n, last - first);
                for (int begin = first; begin < last; begin += step)
                    work(p, thread, begin, std::min(begin + step, last));
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
                emit(s, rows, p.stage | BITNET_STAGE_ACC, layer, BITNET_DTYPE_I32, p.out, p.w.n_out, p.heads, kernel);
        each_block([&](const Projection &p, int, int begin, int end) { scale(s, rows, p, begin, end); });
    }
    for (const Projection &p : projections)
        if (wanted(s, rows, p.stage, layer))
            emit(s, rows, p.stage, layer, BITNET_DTYPE_F32, p.out, p.w.n_out, p.heads, kernel);
}

// ---- attention --------------------------------------------------------------------------------------------------

void rotate(State &s, int r) {
    const Hyperparameters &hp = s.model->hp;
    const RopeOrder order = s.model->semantics.rope_order;
    const float *cosine = s.rope_cos.data() + size_t(r) * size_t(hp.n_rot / 2);
    const float *sine = s.rope_sin.data() + size_t(r) * size_t(hp.n_rot / 2);
    rope(s.q.data() + size_t(r) * size_t(hp.n_q()), hp.n_head, hp.head_dim, hp.n_rot, order, cosine, sine);
    rope(s.k.data() + size_t(r) * size_t(hp.n_kv()), hp.n_head_kv, hp.head_dim, hp.n_rot, order, cosine, sine);
}

void store(State &s, size_t element, const float *x) {
    if (s.config.kv == KvType::f32)
        std::memcpy(s.kv<float>() + element, x, size_t(s.model->hp.head_dim) * sizeof(float));
    else
        to_half(x, s.model->hp.head_dim, s.kv<uint16_t>() + element);
}

// Row r's keys and values, each rounded to the cache's type, at its position.
void append_kv(State &s, const Rows &rows, int layer, int r) {
    const Hyperparameters &hp = s.model->hp;
    const int position = rows.first_position + r;
    for (int head = 0; head < hp.n_head_kv; ++head) {
        const size_t from = size_t(r) * size_t(hp.n_kv()) + size_t(head) * size_t(hp.head_dim);
        store(s, s.kv_at(layer, Kv::key, head, position), s.k.data() + from);
        store(s, s.kv_at(layer, Kv::value, head, position), s.v.data() + from);
    }
}

// Queries that share a key/value head, each with a row of scores: scores[j * stride + position].
struct Queries {
    const float *q;  // (n, head_dim)
    float *out;      // (n, head_dim)
    int n;
    int group;  // key/value head
    float *scores;
    size_t stride;
};

// Positions [begin, end), all of one block of the cache.
struct Positions {
    int begin, end;
};

// each(positions) for [begin, end), up to `most` at a time, which divides a block of the cache.
template <class Each> void each_block_of(int begin, int end, int most, const Each &each) {
    for (int p = begin; p < end;) {
        const int next = std::min((p / most + 1) * most, end);
        each(Positions{p, next});
        p = next;
    }
}

void score(State &s, int layer, const Queries &qs, Positions ps) {
    const size_t d = size_t(s.model->hp.head_dim), at = s.kv_at(layer, Kv::key, qs.group, ps.begin);
    const int n = ps.end - ps.begin;
    float *scores = qs.scores + ps.begin;
    if (s.config.kv == KvType::f32)
        s.kernels.dot_rows_f32(s.kv<float>() + at, d, n, int(d), qs.q, d, qs.n, scores, qs.stride);
    else
        s.kernels.dot_rows_f16(s.kv<uint16_t>() + at, d, n, int(d), qs.q, d, qs.n, scores, qs.stride);
    const float scale = float(1.0 / std::sqrt(double(d)));
    for (int j = 0; j < qs.n; ++j)
        for (int i = 0; i < n; ++i) scores[size_t(j) * qs.stride + size_t(i)] *= scale;
}

// Adds positions to dimensions [first, last) of the outputs, which hold the sum over all positions before.
void mix(State &s, int layer, const Queries &qs, Positions ps, int first, int last) {
    const size_t d = size_t(s.model->hp.head_dim);
    const size_t at = s.kv_at(layer, Kv::value, qs.group, ps.begin) + size_t(first);
    const int n = ps.end - ps.begin;
    const float *weights = qs.scores + ps.begin;
    if (ps.begin == 0)
        for (int j = 0; j < qs.n; ++j) std::fill_n(qs.out + size_t(j) * d + size_t(first), last - first, 0.0f);
    if (s.config.kv == KvType::f32)
        s.kernels.mix_rows_f32(s.kv<float>() + at, d, n, last - first, weights, qs.stride, qs.n, qs.out + first, d);
    else
        s.kernels.mix_rows_f16(s.kv<uint16_t>() + at, d, n, last - first, weights, qs.stride, qs.n, qs.out + first, d);
}

// The query heads of row `row` that share key/value head `group`.
Queries queries_of(State &s, int row, int group, float *scores, size_t stride) {
    const Hyperparameters &hp = s.model->hp;
    const int n = hp.n_head / hp.n_head_kv;
    const size_t at = (size_t(row) * size_t(hp.n_head) + size_t(group * n)) * size_t(hp.head_dim);
    return {s.q.data() + at, s.attended.data() + at, n, group, scores + size_t(group * n) * stride, stride};
}

// Asks for the beginning of the block of the cache after `ps`: the kernels' own prefetch ends where a block does.
void prefetch_next(State &s, int layer, Kv which, int head, Positions ps, int end) {
    constexpr size_t ahead = 8192;
    if (ps.end >= end) return;
    const char *next = s.kv<char>() + s.kv_at(layer, which, head, ps.end) * s.kv_element_bytes();
    for (size_t at = 0; at < ahead; at += 64) __builtin_prefetch(next + at, 0, 2);
}

// One row, in three steps whose parts are equal: keys by position, softmax by head, values by dimension. Each key and
// value is read once, by one thread, in the order in which they lie in memory.
template <class AfterScores, class AfterSoftmax>
void attend_row(State &s, int row, int position, int layer, const AfterScores &after_scores,
                const AfterSoftmax &after_softmax) {
    const Hyperparameters &hp = s.model->hp;
    const int n_kv = position + 1, block = kv_block(s.config.n_ctx);
    float *scores = s.scores.data();  // (n_head, n_kv)
    s.pool.split(n_kv, kv_tile, [&](int, int begin, int end) {
        each_block_of(begin, end, block, [&](Positions ps) {
            prefetch_next(s, layer, Kv::key, 0, ps, end);
            for (int g = 0; g < hp.n_head_kv; ++g) score(s, layer, queries_of(s, row, g, scores, size_t(n_kv)), ps);
        });
    });
    after_scores();
    const bool alone = n_kv <= kv_tile;  // too little to share
    s.pool.split(hp.n_head, alone ? hp.n_head : 1, [&](int, int begin, int end) {
        for (int head = begin; head < end; ++head) s.kernels.softmax(scores + size_t(head) * size_t(n_kv), n_kv);
    });
    after_softmax();
    // Each thread some heads, and of those at its edges some dimensions: 16 of them are a cache line of f32.
    const int per_head = (hp.head_dim + 15) / 16, n_units = hp.n_head_kv * per_head;
    s.pool.split(n_units, alone ? n_units : 1, [&](int, int begin, int end) {
        each_block_of(0, n_kv, block, [&](Positions ps) {
            prefetch_next(s, layer, Kv::value, begin / per_head, ps, n_kv);
            for (int g = begin / per_head; g * per_head < end; ++g) {
                const int first = std::max(begin - g * per_head, 0) * 16;
                const int last = std::min((end - g * per_head) * 16, hp.head_dim);
                mix(s, layer, queries_of(s, row, g, scores, size_t(n_kv)), ps, first, last);
            }
        });
    });
}

// Rows [begin, end) and one key/value head: each block of keys, and of values, is read once for all of their queries.
void attend_rows(State &s, const Rows &rows, int begin, int end, int group, int layer, float *scratch) {
    const Hyperparameters &hp = s.model->hp;
    const int n_rep = hp.n_head / hp.n_head_kv, n = (end - begin) * n_rep;
    const int seen_by_last = rows.first_position + end, seen_by_all = rows.first_position + begin + 1;
    const size_t d = size_t(hp.head_dim), stride = scores_stride(seen_by_last);
    float *scores = scratch, *q = scratch + size_t(n) * stride, *out = q + size_t(n) * d;
    for (int r = begin; r < end; ++r)
        std::memcpy(q + size_t((r - begin) * n_rep) * d, queries_of(s, r, group, scores, stride).q,
                    size_t(n_rep) * d * sizeof(float));
    const Queries all = {q, out, n, group, scores, stride};
    // Some scores too many: a row passes over what it must not see.
    each_block_of(0, seen_by_last, kv_tile, [&](Positions ps) { score(s, layer, all, ps); });
    for (int j = 0; j < n; ++j) s.kernels.softmax(scores + size_t(j) * stride, seen_by_all + j / n_rep);
    each_block_of(0, seen_by_all, kv_tile, [&](Positions ps) { mix(s, layer, all, ps, 0, hp.head_dim); });
    for (int r = begin; r < end; ++r) {
        const size_t first = size_t((r - begin) * n_rep);
        const Queries own = {q + first * d, out + first * d, n_rep, group, scores + first * stride, stride};
        each_block_of(seen_by_all, seen_by_all + r - begin, kv_tile,
                      [&](Positions ps) { mix(s, layer, own, ps, 0, hp.head_dim); });
        std::memcpy(queries_of(s, r, group, scores, stride).out, own.out, size_t(n_rep) * d * sizeof(float));
    }
}

void attend(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    if (any_wanted(s, rows, layer, {BITNET_STAGE_ATTN_SCORES, BITNET_STAGE_ATTN_SCORES_SOFTMAX})) {
        for (int r = 0; r < rows.n; ++r) {
            const Rows row = {1, rows.first_row + r, rows.first_position + r};
            const auto shown = [&](int stage) {
                return [&, stage] {
                    show(s, row, stage, layer, s.scores.data(), hp.n_head * (row.first_position + 1), hp.n_head);
                };
            };
            attend_row(s, r, row.first_position, layer, shown(BITNET_STAGE_ATTN_SCORES),
                       shown(BITNET_STAGE_ATTN_SCORES_SOFTMAX));
        }
        return;
    }
    if (rows.n == 1)
        return attend_row(
            s, 0, rows.first_position, layer, [] {}, [] {});

    const int block = attention_queries(hp) / (hp.n_head / hp.n_head_kv), n_blocks = (rows.n + block - 1) / block;
    s.pool.deal(n_blocks * hp.n_head_kv, [&](int thread, int unit) {
        const int begin = (n_blocks - 1 - unit / hp.n_head_kv) * block;  // the longest first: the last units are short
        attend_rows(s, rows, begin, std::min(begin + block, rows.n), unit % hp.n_head_kv, layer,
                    s.scores.data() + size_t(thread) * attention_scratch(hp, s.config.n_ctx));
    });
}

void attention_block(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    const LayerWeights &w = s.model->layers[size_t(layer)];
    const Semantics &sem = s.model->semantics;
    float *h = s.h.data(), *normed = s.normed.data(), *attended = s.attended.data();

    each_row(s, rows, layer,
             {BITNET_STAGE_ATTN_NORM, BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES,
              BITNET_STAGE_ATTN_NORM | BITNET_STAGE_SCALE},
             Step{[&](int r) { norm_row(s, h, w.attn_norm, hp.n_embd, normed, r); },
                  [&] { show(s, rows, BITNET_STAGE_ATTN_NORM, layer, normed, hp.n_embd); }},
             Step{[&](int r) { quantize(s, hp.n_embd, r); },
                  [&] { show_codes(s, rows, BITNET_STAGE_ATTN_NORM, layer, hp.n_embd); }});
    linear(s, rows, layer,
           {{w.wq, s.q.data(), BITNET_STAGE_Q_PROJ, hp.n_head},
            {w.wk, s.k.data(), BITNET_STAGE_K_PROJ, hp.n_head_kv},
            {w.wv, s.v.data(), BITNET_STAGE_V_PROJ, hp.n_head_kv}});
    each_row(s, rows, layer, {BITNET_STAGE_Q_ROPE, BITNET_STAGE_K_ROPE},
             Step{[&](int r) { rotate(s, r); },
                  [&] {
                      show(s, rows, BITNET_STAGE_Q_ROPE, layer, s.q.data(), hp.n_q(), hp.n_head);
                      show(s, rows, BITNET_STAGE_K_ROPE, layer, s.k.data(), hp.n_kv(), hp.n_head_kv);
                  }},
             Step{[&](int r) {
                      if (sem.attn_q == DotInput::f16)
                          round_to_half(s.q.data() + size_t(r) * size_t(hp.n_q()), hp.n_q());
                      append_kv(s, rows, layer, r);
                  },
                  [] {}});
    attend(s, rows, layer);
    show(s, rows, BITNET_STAGE_ATTN_CONTEXT, layer, attended, hp.n_q(), hp.n_head);
    const float *sub_norm = sem.attn_sub_norm ? w.attn_sub_norm : nullptr;
    each_row(s, rows, layer,
             {BITNET_STAGE_ATTN_SUB_NORM, BITNET_STAGE_ATTN_SUB_NORM | BITNET_STAGE_CODES,
              BITNET_STAGE_ATTN_SUB_NORM | BITNET_STAGE_SCALE},
             Step{[&](int r) { sub_norm_row(s, attended, sub_norm, hp.n_q(), normed, r); },
                  [&] {
                      if (sub_norm) show(s, rows, BITNET_STAGE_ATTN_SUB_NORM, layer, normed, hp.n_q(), hp.n_head);
                  }},
             Step{[&](int r) { quantize(s, hp.n_q(), r); },
                  [&] { show_codes(s, rows, BITNET_STAGE_ATTN_SUB_NORM, layer, hp.n_q()); }});
    linear(s, rows, layer, {{w.wo, s.branch.data(), BITNET_STAGE_ATTN_OUT, 0}});
}

// ---- feed forward -----------------------------------------------------------------------------------------------

// gate = activation(gate) * up, each block of rows while its accumulators are in the cache. False, and nothing done,
// for few tokens, and when somebody looks at gate or up.
bool gate_up_activated(State &s, const Rows &rows, int layer, const Projection &gate, const Projection &up) {
    if (s.model->semantics.activation_quant != ActivationQuant::row_int8 || rows.n <= s.kernels.few_tokens ||
        any_wanted(s, rows, layer, {gate.stage, gate.stage | BITNET_STAGE_ACC, up.stage, up.stage | BITNET_STAGE_ACC}))
        return false;
    s.pool.split(gate.w.n_out, 16, [&](int thread, int first, int last) {
        const int step = rows_at_a_time(s, rows.n, last - first);
        for (int begin = first; begin < last; begin += step) {
            const int end = std::min(begin + step, last);
            for (const Projection *p : {&gate, &up}) {
                accumulate(s, rows, *p, thread, begin, end);
                scale(s, rows, *p, begin, end);
            }
            for (int r = 0; r < rows.n; ++r) {
                float *g = gate.out + size_t(r) * size_t(gate.w.n_out) + begin;
                const float *u = up.out + size_t(r) * size_t(up.w.n_out) + begin;
                ffn_activation(s.kernels, g, u, end - begin, s.model->semantics.activation, g);
            }
        }
    });
    return true;
}

void ffn_block(State &s, const Rows &rows, int layer) {
    const Hyperparameters &hp = s.model->hp;
    const LayerWeights &w = s.model->layers[size_t(layer)];
    const Semantics &sem = s.model->semantics;
    float *h = s.h.data(), *normed = s.normed.data(), *gate = s.gate.data(), *up = s.up.data();

    each_row(s, rows, layer,
             {BITNET_STAGE_ATTN_RESIDUAL, BITNET_STAGE_FFN_NORM, BITNET_STAGE_FFN_NORM | BITNET_STAGE_CODES,
              BITNET_STAGE_FFN_NORM | BITNET_STAGE_SCALE},
             Step{[&](int r) { add_residual(s, r); },
                  [&] { show(s, rows, BITNET_STAGE_ATTN_RESIDUAL, layer, h, hp.n_embd); }},
             Step{[&](int r) { norm_row(s, h, w.ffn_norm, hp.n_embd, normed, r); },
                  [&] { show(s, rows, BITNET_STAGE_FFN_NORM, layer, normed, hp.n_embd); }},
             Step{[&](int r) { quantize(s, hp.n_embd, r); },
                  [&] { show_codes(s, rows, BITNET_STAGE_FFN_NORM, layer, hp.n_embd); }});
    const Projection to_gate = {w.w_gate, gate, BITNET_STAGE_FFN_GATE, 0};
    const Projection to_up = {w.w_up, up, BITNET_STAGE_FFN_UP, 0};
    const bool activated = gate_up_activated(s, rows, layer, to_gate, to_up);
    if (!activated) linear(s, rows, layer, {to_gate, to_up});
    const float *sub_norm = sem.ffn_sub_norm ? w.ffn_sub_norm : nullptr;
    each_row(s, rows, layer,
             {BITNET_STAGE_FFN_ACT, BITNET_STAGE_FFN_SUB_NORM, BITNET_STAGE_FFN_SUB_NORM | BITNET_STAGE_CODES,
              BITNET_STAGE_FFN_SUB_NORM | BITNET_STAGE_SCALE},
             Step{[&](int r) {
                      if (activated) return;
                      float *g = gate + size_t(r) * size_t(hp.n_ff);
                      ffn_activation(s.kernels, g, up + size_t(r) * size_t(hp.n_ff), hp.n_ff, sem.activation, g);
                  },
                  [&] { show(s, rows, BITNET_STAGE_FFN_ACT, layer, gate, hp.n_ff); }},
             Step{[&](int r) { sub_norm_row(s, gate, sub_norm, hp.n_ff, normed, r); },
                  [&] {
                      if (sub_norm) show(s, rows, BITNET_STAGE_FFN_SUB_NORM, layer, normed, hp.n_ff);
                  }},
             Step{[&](int r) { quantize(s, hp.n_ff, r); },
                  [&] { show_codes(s, rows, BITNET_STAGE_FFN_SUB_NORM, layer, hp.n_ff); }});
    linear(s, rows, layer, {{w.w_down, s.branch.data(), BITNET_STAGE_FFN_OUT, 0}});
    each_row(
        s, rows, layer, {BITNET_STAGE_LAYER_OUT},
        Step{[&](int r) { add_residual(s, r); }, [&] { show(s, rows, BITNET_STAGE_LAYER_OUT, layer, h, hp.n_embd); }});
}

// ---- embedding and head -----------------------------------------------------------------------------------------

Operations outside_layers(const State &s) { return {*s.model, s.kernels, s.model->semantics, -1}; }

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
    if (s.model->semantics.stage_type != StageType::f32) outside_layers(s).round_stage(s.h.data(), rows.n * n_embd);
    show(s, rows, BITNET_STAGE_EMBEDDINGS, -1, s.h.data(), int(n_embd));
}

// Vocabulary rows that meet every token of the batch while they are in the cache.
constexpr int head_block = 32;

// What the head multiplies: the outputs of the final norm, in the precision that the semantics ask for.
const float *head_input(State &s, const float *hidden, int n) {
    if (s.model->semantics.head_input != DotInput::f16) return hidden;
    const size_t n_values = size_t(n) * size_t(s.model->hp.n_embd);
    std::memcpy(s.normed.data(), hidden, n_values * sizeof(float));
    round_to_half(s.normed.data(), int(n_values));
    return s.normed.data();
}

void multiply_head(State &s, const float *hidden, int n, float *logits) {
    const int n_vocab = s.model->hp.n_vocab;
    const float *x = head_input(s, hidden, n);
    s.pool.split(n_vocab, head_block, [&](int, int first, int last) {
        const int step = n == 1 ? last - first : head_block;
        for (int v = first; v < last; v += step)
            float_matrix_rows(s.kernels, s.model->head, v, std::min(v + step, last), x, n, logits + v, size_t(n_vocab));
    });
    if (s.model->semantics.stage_type != StageType::f32)
        outside_layers(s).round_stage(logits, size_t(n) * size_t(n_vocab));
}

void final_norm_row(const State &s, const float *h, float *hidden, int r) {
    const int n = s.model->hp.n_embd;
    const size_t at = size_t(r) * size_t(n);
    if (is_alternative(s.model->semantics))
        return outside_layers(s).norm(BITNET_STAGE_FINAL_NORM, h + at, 1, n, hidden + at);
    norm_row(s, h, s.model->output_norm, n, hidden, r);
}

// Final norm and, unless `logits` is null, logits of rows [begin, begin + n) of the batch.
void head(State &s, const Rows &rows, int begin, int n, float *hidden, float *logits) {
    const Hyperparameters &hp = s.model->hp;
    const Rows part = {n, rows.first_row + begin, rows.first_position + begin};
    const float *h = s.h.data() + size_t(begin) * size_t(hp.n_embd);
    each_row(s, part, -1, {BITNET_STAGE_FINAL_NORM},
             Step{[&](int r) { final_norm_row(s, h, hidden, r); },
                  [&] { show(s, part, BITNET_STAGE_FINAL_NORM, -1, hidden, hp.n_embd); }});
    if (!logits) return;
    multiply_head(s, hidden, n, logits);
    show(s, part, BITNET_STAGE_LOGITS, -1, logits, hp.n_vocab);
}

// Rows whose outputs nobody keeps but a trace wants go through a small buffer, a few at a time.
constexpr int unkept_rows = 8;

// Outputs of the batch: rows from keep_from on go to s.hidden and s.logits at row `out`; earlier ones are shown only.
void outputs(State &s, const Rows &rows, const EvalRequest &request, int keep_from, int out) {
    const size_t n_embd = size_t(s.model->hp.n_embd), n_vocab = size_t(s.model->hp.n_vocab);
    if (keep_from > 0 && any_wanted(s, rows, -1, {BITNET_STAGE_FINAL_NORM, BITNET_STAGE_LOGITS})) {
        Buffer<float> hidden(unkept_rows * n_embd), logits(unkept_rows * n_vocab);
        for (int r = 0; r < keep_from; r += unkept_rows)
            head(s, rows, r, std::min(unkept_rows, keep_from - r), hidden.data(), logits.data());
    }
    if (keep_from == rows.n) return;
    s.logits_left_out =
        request.leave_out_logits && request.keep == KeepLogits::last && !wanted(s, rows, BITNET_STAGE_LOGITS, -1);
    head(s, rows, keep_from, rows.n - keep_from, s.hidden.data() + size_t(out) * n_embd,
         s.logits_left_out ? nullptr : s.logits.data() + size_t(out) * n_vocab);
}

void prepare_rope(State &s, const Rows &rows) {
    const Semantics &sem = s.model->semantics;
    const size_t half = size_t(s.model->hp.n_rot / 2);
    s.pool.split(rows.n, 1, [&](int, int begin, int end) {
        for (int r = begin; r < end; ++r)
            rope_angles(rows.first_position + r + sem.rope_offset, s.model->hp.n_rot, sem.rope_theta, sem.rope_angle,
                        s.rope_cos.data() + size_t(r) * half, s.rope_sin.data() + size_t(r) * half);
    });
}

// What a sink may ask while it sees a stage.
void stop_if_asked(const State &s) {
    const char *reason = s.tracer ? s.tracer->stop_reason() : nullptr;
    if (reason) fail(Status::user, "eval: stopped by %s", reason);
}

void forward(State &s, const Rows &rows, const EvalRequest &request, int keep_from, int out) {
    embed(s, rows, request);
    prepare_rope(s, rows);
    for (int layer = 0; layer < s.model->hp.n_layer; ++layer) {
        if (request.cancel && request.cancel(request.cancel_user))
            fail(Status::cancelled, "eval: cancelled before layer %d of %d", layer, s.model->hp.n_layer);
        stop_if_asked(s);
        if (needs_alternative_layer(s.model->semantics, layer)) {
            alternative_layer(s, rows, layer);
            continue;
        }
        attention_block(s, rows, layer);
        ffn_block(s, rows, layer);
    }
    outputs(s, rows, request, keep_from, out);
    stop_if_asked(s);
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
    s.logits_left_out = false;
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

void complete_logits(State &s) {
    if (!s.logits_left_out) return;
    multiply_head(s, s.hidden.data(), 1, s.logits.data());
    s.logits_left_out = false;
}

bool head_candidates(State &s, const CompactHead &compact, int k, std::vector<Candidate> &out) {
    if (s.model->semantics.stage_type != StageType::f32) return false;  // the bound is of exact logits
    if (s.bounds.size() == 0) s.bounds = Buffer<float>(size_t(s.model->hp.n_vocab));
    return compact.candidates(s.kernels, s.pool, head_input(s, s.hidden.data(), 1), k, s.bounds.data(), s.coarse_head,
                              out);
}

}  // namespace bitnet
