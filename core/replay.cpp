#include "core/replay.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>
#include <utility>

#include "bitnet_c.h"
#include "core/alternative_layer.h"
#include "model/error.h"
#include "model/half.h"

namespace bitnet {
namespace {

constexpr int positions_max = 1 << 20;  // of a context, too: angles beyond are not exact (core/math.h)
constexpr size_t rows_max = size_t(1) << 20;

// By number, from 1, as in the header.
constexpr const char *stage_names[] = {"embeddings",    "attn_norm",     "q_proj",
                                       "k_proj",        "v_proj",        "q_rope",
                                       "k_rope",        "attn_scores",   "attn_scores_softmax",
                                       "attn_context",  "attn_sub_norm", "attn_out",
                                       "attn_residual", "ffn_norm",      "ffn_gate",
                                       "ffn_up",        "ffn_act",       "ffn_sub_norm",
                                       "ffn_out",       "layer_out",     "final_norm",
                                       "logits"};
static_assert(std::size(stage_names) == BITNET_STAGE_COUNT);

int base_of(int stage) { return stage & 0xff; }
int companion_of(int stage) { return stage & ~0xff; }

// The quantised stage that a linear reads.
int site_of(int linear) {
    switch (base_of(linear)) {
    case BITNET_STAGE_Q_PROJ:
    case BITNET_STAGE_K_PROJ:
    case BITNET_STAGE_V_PROJ: return BITNET_STAGE_ATTN_NORM;
    case BITNET_STAGE_ATTN_OUT: return BITNET_STAGE_ATTN_SUB_NORM;
    case BITNET_STAGE_FFN_GATE:
    case BITNET_STAGE_FFN_UP: return BITNET_STAGE_FFN_NORM;
    case BITNET_STAGE_FFN_OUT: return BITNET_STAGE_FFN_SUB_NORM;
    default: return 0;
    }
}

// Whether there is such a stage or companion.
bool is_stage(int stage) {
    const int base = base_of(stage), companion = companion_of(stage);
    if (base < 1 || base > BITNET_STAGE_COUNT) return false;
    if (companion == BITNET_STAGE_ACC) return site_of(base) != 0;
    if (companion == 0) return true;
    return (companion == BITNET_STAGE_CODES || companion == BITNET_STAGE_SCALE) &&
           (base == BITNET_STAGE_ATTN_NORM || base == BITNET_STAGE_ATTN_SUB_NORM || base == BITNET_STAGE_FFN_NORM ||
            base == BITNET_STAGE_FFN_SUB_NORM);
}

std::string name_of(int stage) {
    if (stage == 0) return "token ids";
    if (!is_stage(stage)) return format_text("stage %d", stage);
    const int companion = companion_of(stage);
    return std::string(stage_names[base_of(stage) - 1]) + (companion == BITNET_STAGE_CODES   ? ".codes"
                                                           : companion == BITNET_STAGE_SCALE ? ".scale"
                                                           : companion == BITNET_STAGE_ACC   ? ".acc"
                                                                                             : "");
}

std::string place_of(int stage, int layer) {
    return layer < 0 ? name_of(stage) : format_text("%s of layer %d", name_of(stage).c_str(), layer);
}

const char *dtype_name(int dtype) {
    static const char *const names[] = {"F32", "F16", "BF16", "I8", "I32"};
    return dtype >= 0 && dtype < 5 ? names[dtype] : "unknown";
}

size_t dtype_bytes(int dtype) {
    return dtype == BITNET_DTYPE_I8 ? 1 : dtype == BITNET_DTYPE_F16 || dtype == BITNET_DTYPE_BF16 ? 2 : 4;
}

}  // namespace

// ---- what there is ----------------------------------------------------------------------------------------------

Replay::Replay(std::shared_ptr<const Model> model, const Kernels &kernels, Semantics semantics)
    : model_(std::move(model)), kernels_(kernels), semantics_(std::move(semantics)) {
    check_layers(semantics_, model_->hp.n_layer);
    if (semantics_.head_tied != model_->semantics.head_tied)
        fail(Status::invalid, "semantics: head_tied: chosen when a model is loaded: expected '%s'",
             model_->semantics.head_tied ? "on" : "off");
    for (int layer = 0; layer < model_->hp.n_layer; ++layer) {
        const LayerWeights &w = model_->layers[size_t(layer)];
        const Semantics &own = semantics_.at(layer);
        if ((own.attn_sub_norm && !w.attn_sub_norm) || (own.ffn_sub_norm && !w.ffn_sub_norm))
            fail(Status::invalid, "semantics: %s 'on': layer %d has no such tensor",
                 own.attn_sub_norm && !w.attn_sub_norm ? "attn_sub_norm" : "ffn_sub_norm", layer);
    }
    list_operations();
}

void Replay::list_operations() {
    const Hyperparameters &hp = model_->hp;
    const size_t n_embd = size_t(hp.n_embd);
    operations_.push_back({BITNET_STAGE_EMBEDDINGS, -1, BITNET_DTYPE_F32, 0, {}, n_embd});
    for (int layer = 0; layer < hp.n_layer; ++layer) list_layer(layer);
    operations_.push_back(
        {BITNET_STAGE_FINAL_NORM, -1, BITNET_DTYPE_F32, 1, {{BITNET_STAGE_LAYER_OUT, hp.n_layer - 1, false}}, n_embd});
    operations_.push_back(
        {BITNET_STAGE_LOGITS, -1, BITNET_DTYPE_F32, 1, {{BITNET_STAGE_FINAL_NORM, -1, false}}, size_t(hp.n_vocab)});
}

void Replay::list_layer(int layer) {
    const Hyperparameters &hp = model_->hp;
    const size_t n_embd = size_t(hp.n_embd), n_q = size_t(hp.n_q()), n_kv = size_t(hp.n_kv()), n_ff = size_t(hp.n_ff);
    const Operations ops(*model_, kernels_, semantics_.at(layer), layer);
    const OperationInput residual = {layer ? BITNET_STAGE_LAYER_OUT : BITNET_STAGE_EMBEDDINGS, layer - 1, false};
    const auto here = [layer](int stage) { return OperationInput{stage, layer, false}; };
    const auto everywhere = [layer](int stage) { return OperationInput{stage, layer, true}; };
    const auto add = [&](int stage, int dtype, size_t n, std::initializer_list<OperationInput> inputs) {
        OperationInfo info = {stage, layer, dtype, int(inputs.size()), {}, n};
        std::copy(inputs.begin(), inputs.end(), info.inputs);
        operations_.push_back(info);
    };
    const auto stage = [&](int id, size_t n, std::initializer_list<OperationInput> inputs) {
        add(id, BITNET_DTYPE_F32, n, inputs);
    };
    // A norm, if the layer has it, and its codes; returns what its linears read as floats.
    const auto norm = [&](int id, size_t n, OperationInput input) {
        OperationInput output = input;
        if (ops.has_norm(id)) {
            stage(id, n, {input});
            output = here(id);
        }
        if (ops.has_codes()) {
            add(id | BITNET_STAGE_CODES, BITNET_DTYPE_I8, n, {output});
            add(id | BITNET_STAGE_SCALE, BITNET_DTYPE_F32, size_t(ops.scales_per_row(int(n))), {output});
        }
        return output;
    };
    const auto linear = [&](int id, size_t n, OperationInput input) {
        if (ops.has_accumulators()) add(id | BITNET_STAGE_ACC, BITNET_DTYPE_I32, n, {input});
        stage(id, n, {input});
    };

    const OperationInput a = norm(BITNET_STAGE_ATTN_NORM, n_embd, residual);
    linear(BITNET_STAGE_Q_PROJ, n_q, a);
    linear(BITNET_STAGE_K_PROJ, n_kv, a);
    linear(BITNET_STAGE_V_PROJ, n_kv, a);
    stage(BITNET_STAGE_Q_ROPE, n_q, {here(BITNET_STAGE_Q_PROJ)});
    stage(BITNET_STAGE_K_ROPE, n_kv, {here(BITNET_STAGE_K_PROJ)});
    const bool swapped = semantics_.at(layer).kv_swap == KvSwap::attention;
    const OperationInput q = here(BITNET_STAGE_Q_ROPE), k = everywhere(BITNET_STAGE_K_ROPE),
                         v = everywhere(BITNET_STAGE_V_PROJ);
    stage(BITNET_STAGE_ATTN_SCORES, 0, {q, swapped ? v : k});
    stage(BITNET_STAGE_ATTN_SCORES_SOFTMAX, 0, {q, swapped ? v : k});
    stage(BITNET_STAGE_ATTN_CONTEXT, n_q, {q, k, v});
    const OperationInput o = norm(BITNET_STAGE_ATTN_SUB_NORM, n_q, here(BITNET_STAGE_ATTN_CONTEXT));
    linear(BITNET_STAGE_ATTN_OUT, n_embd, o);
    stage(BITNET_STAGE_ATTN_RESIDUAL, n_embd, {residual, here(BITNET_STAGE_ATTN_OUT)});
    const OperationInput b = norm(BITNET_STAGE_FFN_NORM, n_embd, here(BITNET_STAGE_ATTN_RESIDUAL));
    linear(BITNET_STAGE_FFN_GATE, n_ff, b);
    linear(BITNET_STAGE_FFN_UP, n_ff, b);
    stage(BITNET_STAGE_FFN_ACT, n_ff, {here(BITNET_STAGE_FFN_GATE), here(BITNET_STAGE_FFN_UP)});
    const OperationInput m = norm(BITNET_STAGE_FFN_SUB_NORM, n_ff, here(BITNET_STAGE_FFN_ACT));
    linear(BITNET_STAGE_FFN_OUT, n_embd, m);
    stage(BITNET_STAGE_LAYER_OUT, n_embd, {here(BITNET_STAGE_ATTN_RESIDUAL), here(BITNET_STAGE_FFN_OUT)});
}

const OperationInfo &Replay::find(int stage, int layer) const {
    bool of_no_layer = false, known = false;
    for (const OperationInfo &info : operations_) {
        if (info.stage == stage && info.layer == layer) return info;
        known |= info.stage == stage;
        of_no_layer |= info.stage == stage && info.layer < 0;
    }
    if (!known && !is_stage(stage)) fail(Status::invalid, "stage %d: there is no such stage", stage);
    if (!known) fail(Status::invalid, "%s: no operation of these semantics computes it", name_of(stage).c_str());
    if (of_no_layer) fail(Status::invalid, "%s: layer %d: expected -1", name_of(stage).c_str(), layer);
    if (layer < 0 || layer >= model_->hp.n_layer)
        fail(Status::invalid, "%s: layer %d: expected 0 to %d", name_of(stage).c_str(), layer, model_->hp.n_layer - 1);
    fail(Status::invalid, "%s: no operation of these semantics computes it", place_of(stage, layer).c_str());
}

// ---- one request ------------------------------------------------------------------------------------------------

// A request that has been checked.
class Replay::Call {
public:
    Call(const Replay &replay, const ReplayRequest &request)
        : model_(*replay.model_), hp_(model_.hp), info_(replay.find(request.stage, request.layer)), request_(request),
          semantics_(replay.semantics_.at(info_.layer)), ops_(model_, replay.kernels_, semantics_, info_.layer) {
        for (const RecordedRows &rows : request.inputs) check_rows(rows);
        for (size_t i = 0; i < request.inputs.size(); ++i)
            for (size_t j = 0; j < i; ++j)
                if (request.inputs[i].stage == request.inputs[j].stage)
                    refuse(format_text("%s was given twice", name_of(request.inputs[i].stage).c_str()));
        choose_inputs();
        n_ = inputs_[0]->n_rows;
        check_positions();
        if (inputs_[0]->stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX) check_probabilities();
        for (size_t i = 1; i < n_inputs_; ++i) {
            if (everywhere_[i]) {
                if (inputs_[i]->n_rows < size_t(last_position_) + 1)
                    refuse(format_text("%zu rows of %s: expected %d, one for each position from 0", inputs_[i]->n_rows,
                                       name_of(inputs_[i]->stage).c_str(), last_position_ + 1));
            } else if (inputs_[i]->n_rows != n_) {
                refuse(format_text("%zu rows of %s: expected %zu, as of %s", inputs_[i]->n_rows,
                                   name_of(inputs_[i]->stage).c_str(), n_, name_of(inputs_[0]->stage).c_str()));
            }
        }
        if (request.inputs.size() != n_inputs_)
            for (const RecordedRows &rows : request.inputs)
                if (std::find(inputs_, inputs_ + n_inputs_, &rows) == inputs_ + n_inputs_)
                    refuse(format_text("%s was given, which it is not computed from", name_of(rows.stage).c_str()));
    }

    size_t size() const {
        if (info_.row_elements) return n_ * info_.row_elements;
        size_t n = 0;
        for (size_t r = 0; r < n_; ++r) n += size_t(hp_.n_head) * size_t(position(r) + 1);
        return n;
    }

    void run(void *out) const {
        float *f = static_cast<float *>(out);
        switch (companion_of(info_.stage)) {
        case BITNET_STAGE_CODES:
        case BITNET_STAGE_SCALE: return quantize(out);
        case BITNET_STAGE_ACC: {
            const Quantised in = quantised();
            return ops_.accumulate(base_of(info_.stage), in.codes.data(), int(n_), 0, int(info_.row_elements),
                                   static_cast<int32_t *>(out));
        }
        }
        switch (info_.stage) {
        case BITNET_STAGE_EMBEDDINGS: return embed(f);
        case BITNET_STAGE_LOGITS: return ops_.head(floats(0).data(), int(n_), f);
        case BITNET_STAGE_Q_ROPE: return rope(f, hp_.n_head);
        case BITNET_STAGE_K_ROPE: return rope(f, hp_.n_head_kv);
        case BITNET_STAGE_ATTN_SCORES:
        case BITNET_STAGE_ATTN_SCORES_SOFTMAX:
        case BITNET_STAGE_ATTN_CONTEXT: return attention(f);
        case BITNET_STAGE_FFN_ACT:
            return ops_.activation(floats(0).data(), floats(1).data(), int(n_ * info_.row_elements), f);
        case BITNET_STAGE_ATTN_RESIDUAL:
        case BITNET_STAGE_LAYER_OUT: return ops_.add(floats(0).data(), floats(1).data(), n_ * info_.row_elements, f);
        }
        if (site_of(info_.stage)) return linear(f);
        ops_.norm(info_.stage, floats(0).data(), int(n_), int(info_.row_elements), f);
    }

private:
    struct Quantised {
        std::vector<float> x;  // empty when codes were given
        std::vector<int8_t> codes;
        std::vector<float> scales;
    };

    [[noreturn]] void refuse(const std::string &what) const {
        fail(Status::invalid, "%s: %s", place_of(info_.stage, info_.layer).c_str(), what.c_str());
    }

    // ---- checks ----

    size_t width_of(int stage) const {
        switch (base_of(stage)) {
        case 0: return 1;
        case BITNET_STAGE_Q_PROJ:
        case BITNET_STAGE_Q_ROPE:
        case BITNET_STAGE_ATTN_CONTEXT:
        case BITNET_STAGE_ATTN_SUB_NORM: return size_t(hp_.n_q());
        case BITNET_STAGE_K_PROJ:
        case BITNET_STAGE_V_PROJ:
        case BITNET_STAGE_K_ROPE: return size_t(hp_.n_kv());
        case BITNET_STAGE_FFN_GATE:
        case BITNET_STAGE_FFN_UP:
        case BITNET_STAGE_FFN_ACT:
        case BITNET_STAGE_FFN_SUB_NORM: return size_t(hp_.n_ff);
        case BITNET_STAGE_LOGITS: return size_t(hp_.n_vocab);
        default: return size_t(hp_.n_embd);
        }
    }

    void check_rows(const RecordedRows &rows) const {
        const std::string name = name_of(rows.stage);
        const int companion = companion_of(rows.stage);
        if (rows.stage != 0 && !is_stage(rows.stage))
            refuse(format_text("input stage %d: there is no such stage", rows.stage));
        if (!rows.data) refuse(format_text("the rows of %s are NULL", name.c_str()));
        if (rows.n_rows == 0 || rows.n_rows > rows_max)
            refuse(format_text("%zu rows of %s: expected 1 to %zu", rows.n_rows, name.c_str(), rows_max));
        const bool integer = rows.stage == 0 || companion == BITNET_STAGE_ACC;
        const bool dtype_fits = companion == BITNET_STAGE_CODES ? rows.dtype == BITNET_DTYPE_I8
                                : integer                       ? rows.dtype == BITNET_DTYPE_I32
                                : companion == BITNET_STAGE_SCALE
                                    ? rows.dtype == BITNET_DTYPE_F32
                                    : rows.dtype >= BITNET_DTYPE_F32 && rows.dtype <= BITNET_DTYPE_BF16;
        if (!dtype_fits)
            refuse(format_text("%s of dtype %d (%s): expected %s", name.c_str(), rows.dtype, dtype_name(rows.dtype),
                               companion == BITNET_STAGE_CODES   ? "I8"
                               : integer                         ? "I32"
                               : companion == BITNET_STAGE_SCALE ? "F32"
                                                                 : "F32, F16 or BF16"));
        const size_t width = companion == BITNET_STAGE_SCALE ? size_t(ops_.scales_per_row(int(width_of(rows.stage))))
                             : rows.stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX ? rows.row_elements  // by position, later
                                                                              : width_of(rows.stage);
        if (rows.row_elements != width)
            refuse(format_text("rows of %zu elements of %s: expected %zu", rows.row_elements, name.c_str(), width));
        if (rows.n_rows > 1 && rows.row_stride < width * dtype_bytes(rows.dtype))
            refuse(format_text("rows of %s are %zu bytes apart: expected at least %zu", name.c_str(), rows.row_stride,
                               width * dtype_bytes(rows.dtype)));
    }

    const RecordedRows *given(int stage) const {
        for (const RecordedRows &rows : request_.inputs)
            if (rows.stage == stage) return &rows;
        return nullptr;
    }

    // The rows an input stands for. The residual stream goes by both of its names.
    const RecordedRows *given(const OperationInput &input) const {
        if (const RecordedRows *rows = given(input.stage)) return rows;
        if (input.layer != info_.layer - 1 || info_.layer < 0) return nullptr;
        if (input.stage == BITNET_STAGE_LAYER_OUT) return given(BITNET_STAGE_EMBEDDINGS);
        return input.stage == BITNET_STAGE_EMBEDDINGS ? given(BITNET_STAGE_LAYER_OUT) : nullptr;
    }

    void take(const RecordedRows *rows, bool everywhere) {
        inputs_[n_inputs_] = rows;
        everywhere_[n_inputs_++] = everywhere;
    }

    // Linears take integers in place of their float input: accumulators, or codes, each with the scales.
    bool choose_integers() {
        const int site = site_of(info_.stage);
        if (!site || !ops_.has_codes()) return false;
        const RecordedRows *scales = given(site | BITNET_STAGE_SCALE), *codes = given(site | BITNET_STAGE_CODES);
        if (companion_of(info_.stage) == BITNET_STAGE_ACC) {
            if (!codes) return false;
            take(codes, false);
            return true;
        }
        const RecordedRows *integers = ops_.has_accumulators() && given(info_.stage | BITNET_STAGE_ACC)
                                           ? given(info_.stage | BITNET_STAGE_ACC)
                                           : codes;
        if (!integers || !scales) return false;
        take(integers, false);
        take(scales, false);
        return true;
    }

    // The sum over the values takes the probabilities themselves in place of queries and keys.
    bool choose_probabilities() {
        const bool of_them = info_.stage == BITNET_STAGE_ATTN_CONTEXT && !ops_.sums_in_one_pass();
        const RecordedRows *probabilities = of_them ? given(BITNET_STAGE_ATTN_SCORES_SOFTMAX) : nullptr;
        if (!probabilities) return false;
        const OperationInput &summed = info_.inputs[semantics_.kv_swap == KvSwap::attention ? 1 : 2];
        const RecordedRows *rows = given(summed);
        if (!rows) refuse(format_text("its input %s is missing", name_of(summed.stage).c_str()));
        take(probabilities, false);
        take(rows, true);
        return true;
    }

    void check_probabilities() const {
        for (size_t r = 0; r < n_; ++r) {
            const size_t width = size_t(hp_.n_head) * size_t(position(r) + 1);
            if (inputs_[0]->row_elements != width)
                refuse(format_text("rows of %zu elements of attn_scores_softmax: expected %zu at position %d",
                                   inputs_[0]->row_elements, width, position(r)));
        }
    }

    void choose_inputs() {
        if (info_.n_inputs == 0) {
            const RecordedRows *tokens = given(0);
            if (!tokens) refuse("the token ids are missing");
            return take(tokens, false);
        }
        if (choose_integers() || choose_probabilities()) return;
        for (int i = 0; i < info_.n_inputs; ++i) {
            const RecordedRows *rows = given(info_.inputs[i]);
            if (!rows) {
                const int site = site_of(info_.stage);
                const std::string codes = site && ops_.has_codes() ? ", or its codes and scales," : "";
                refuse(format_text("its input %s%s is missing", name_of(info_.inputs[i].stage).c_str(), codes.c_str()));
            }
            take(rows, info_.inputs[i].every_position);
        }
    }

    int position(size_t r) const { return request_.positions ? request_.positions[r] : int(r); }

    void check_positions() {
        for (size_t r = 0; r < n_; ++r) {
            const int p = position(r);
            if (p < 0 || p >= positions_max)
                refuse(format_text("position %d of row %zu: expected 0 to %d", p, r, positions_max - 1));
            last_position_ = std::max(last_position_, p);
        }
    }

    // ---- values ----

    static float value_at(const char *data, int dtype, size_t i) {
        uint16_t bits;
        if (dtype == BITNET_DTYPE_F32) {
            float value;
            std::memcpy(&value, data + i * 4, sizeof value);
            return value;
        }
        std::memcpy(&bits, data + i * 2, sizeof bits);
        return dtype == BITNET_DTYPE_F16 ? half_to_float(bits) : bfloat_to_float(bits);
    }

    template <class T> std::vector<T> copy_of(const RecordedRows &rows, size_t n_rows) const {
        std::vector<T> out(n_rows * rows.row_elements);
        const char *data = static_cast<const char *>(rows.data);
        for (size_t r = 0; r < n_rows; ++r)
            std::memcpy(out.data() + r * rows.row_elements, data + r * rows.row_stride, rows.row_elements * sizeof(T));
        return out;
    }

    std::vector<float> floats(size_t input) const {
        const RecordedRows &rows = *inputs_[input];
        const size_t n_rows = everywhere_[input] ? size_t(last_position_) + 1 : n_;
        if (rows.dtype == BITNET_DTYPE_F32) return copy_of<float>(rows, n_rows);
        std::vector<float> out(n_rows * rows.row_elements);
        const char *data = static_cast<const char *>(rows.data);
        for (size_t r = 0; r < n_rows; ++r)
            for (size_t i = 0; i < rows.row_elements; ++i)
                out[r * rows.row_elements + i] = value_at(data + r * rows.row_stride, rows.dtype, i);
        return out;
    }

    Quantised quantised() const {
        Quantised in;
        if (companion_of(inputs_[0]->stage) == BITNET_STAGE_CODES) {
            in.codes = copy_of<int8_t>(*inputs_[0], n_);
            if (n_inputs_ > 1) in.scales = copy_of<float>(*inputs_[1], n_);
            return in;
        }
        in.x = floats(0);
        if (!ops_.has_codes()) return in;
        const int n = int(inputs_[0]->row_elements);
        in.codes.resize(in.x.size());
        in.scales.resize(n_ * size_t(ops_.scales_per_row(n)));
        ops_.quantize(in.x.data(), int(n_), n, in.codes.data(), in.scales.data());
        return in;
    }

    // ---- operations ----

    void embed(float *out) const {
        const std::vector<int32_t> tokens = copy_of<int32_t>(*inputs_[0], n_);
        for (size_t r = 0; r < n_; ++r) {
            if (tokens[r] < 0 || tokens[r] >= hp_.n_vocab)
                refuse(format_text("token %zu is %d: expected 0 to %d", r, tokens[r], hp_.n_vocab - 1));
            ops_.embed(tokens[r], out + r * info_.row_elements);
        }
    }

    void quantize(void *out) const {
        const Quantised in = quantised();
        if (companion_of(info_.stage) == BITNET_STAGE_CODES)
            std::memcpy(out, in.codes.data(), in.codes.size());
        else
            std::memcpy(out, in.scales.data(), in.scales.size() * sizeof(float));
    }

    void linear(float *out) const {
        const int n_out = int(info_.row_elements);
        if (companion_of(inputs_[0]->stage) == BITNET_STAGE_ACC) {
            const std::vector<int32_t> acc = copy_of<int32_t>(*inputs_[0], n_);
            return ops_.scale(info_.stage, acc.data(), floats(1).data(), int(n_), 0, n_out, out);
        }
        const Quantised in = quantised();
        ops_.linear(info_.stage, {int(n_), in.x.data(), in.codes.data(), in.scales.data()}, 0, n_out, out);
    }

    void rope(float *out, int n_heads) const {
        const std::vector<float> x = floats(0);
        for (size_t r = 0; r < n_; ++r)
            ops_.rope(x.data() + r * info_.row_elements, n_heads, position(r), out + r * info_.row_elements);
    }

    void sum_values(float *out) const {
        const std::vector<float> probabilities = floats(0);
        std::vector<float> values = floats(1);
        ops_.round_key_value(values.data(), int(values.size()));
        for (size_t r = 0; r < n_; ++r, out += hp_.n_q())
            ops_.attention_context(probabilities.data() + r * inputs_[0]->row_elements, values.data(), values.data(),
                                   position(r) + 1, out);
    }

    void attention(float *out) const {
        if (inputs_[0]->stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX) return sum_values(out);
        std::vector<float> q = floats(0), keys, values, scores;
        for (size_t r = 0; r < n_; ++r) ops_.round_query(q.data() + r * size_t(hp_.n_q()));
        for (size_t i = 1; i < n_inputs_; ++i) {
            std::vector<float> &rows = inputs_[i]->stage == BITNET_STAGE_K_ROPE ? keys : values;
            rows = floats(i);
            ops_.round_key_value(rows.data(), int(rows.size()));
        }
        for (size_t r = 0; r < n_; ++r) {
            const int n_kv = position(r) + 1;
            scores.resize(size_t(hp_.n_head) * size_t(n_kv));
            ops_.attention_scores(q.data() + r * size_t(hp_.n_q()), keys.data(), values.data(), n_kv, scores.data());
            const bool of_scores = info_.stage == BITNET_STAGE_ATTN_SCORES ||
                                   (info_.stage == BITNET_STAGE_ATTN_CONTEXT && ops_.sums_in_one_pass());
            if (!of_scores) ops_.attention_softmax(scores.data(), n_kv);
            if (info_.stage == BITNET_STAGE_ATTN_CONTEXT) {
                ops_.attention_context(scores.data(), keys.data(), values.data(), n_kv, out);
                out += hp_.n_q();
            } else {
                out = std::copy(scores.begin(), scores.end(), out);
            }
        }
    }

    const Model &model_;
    const Hyperparameters &hp_;
    const OperationInfo &info_;
    const ReplayRequest &request_;
    const Semantics &semantics_;
    const Operations ops_;
    const RecordedRows *inputs_[3] = {};
    bool everywhere_[3] = {};
    size_t n_inputs_ = 0;
    size_t n_ = 0;
    int last_position_ = 0;
};

size_t Replay::size_of(const ReplayRequest &request) const { return Call(*this, request).size(); }

void Replay::run(const ReplayRequest &request, void *out) const { Call(*this, request).run(out); }

}  // namespace bitnet
