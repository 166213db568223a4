#include "abi/cli/bench_engine.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr double nano = 1e-9;
constexpr double seconds_min = 0.02;  // of a measurement: small models are decoded several times over

struct Linear {
    const char *tensor;  // "blk.N.<tensor>.weight"
    int32_t stage;
    LinearGroup group;
};
constexpr Linear linears[] = {
    {"attn_q", BITNET_STAGE_Q_PROJ, LinearGroup::qkv},
    {"attn_k", BITNET_STAGE_K_PROJ, LinearGroup::qkv},
    {"attn_v", BITNET_STAGE_V_PROJ, LinearGroup::qkv},
    {"attn_output", BITNET_STAGE_ATTN_OUT, LinearGroup::attn_out},
    {"ffn_gate", BITNET_STAGE_FFN_GATE, LinearGroup::gate_up},
    {"ffn_up", BITNET_STAGE_FFN_UP, LinearGroup::gate_up},
    {"ffn_down", BITNET_STAGE_FFN_OUT, LinearGroup::down},
};

const Linear *linear_of_stage(int32_t stage) {
    const auto found =
        std::find_if(std::begin(linears), std::end(linears), [&](const Linear &l) { return l.stage == stage; });
    return found == std::end(linears) ? nullptr : found;
}

size_t index_of(LinearGroup group) { return static_cast<size_t>(group); }

LinearGroup group_of_tensor(const std::string &name) {
    for (const Linear &l : linears) {
        if (name.find("." + std::string(l.tensor) + ".") != std::string::npos) return l.group;
    }
    throw CommandError(name + ": a ternary tensor of no linear that bench knows");
}

void dense_weights(bitnet_context_params_t &params) { params.weights = BITNET_WEIGHTS_DENSE; }

}  // namespace

const char *linear_group_name(LinearGroup group) {
    constexpr const char *names[n_linear_groups] = {"q, k, v", "attention out", "gate, up", "down"};
    return names[index_of(group)];
}

double TokenWork::ternary_macs() const { return std::accumulate(group_macs.begin(), group_macs.end(), 0.0); }
double TokenWork::ternary_bytes() const { return std::accumulate(group_bytes.begin(), group_bytes.end(), 0.0); }

double TokenWork::decode_bytes(int position, bool head, double dense_bytes) const {
    return (dense_bytes > 0 ? dense_bytes : ternary_bytes()) + norm_bytes + (head ? head_bytes : 0) +
           kv_bytes_per_position * (position + 1);
}

TokenWork work_of(const bitnet_model_t *model, bool kv_f16) {
    const bitnet_model_info_t info = model_info(model);
    TokenWork work;
    for (size_t i = 0; i < bitnet_model_tensor_count(model); i++) {
        bitnet_tensor_info_t tensor = {};
        tensor.struct_size = sizeof(tensor);
        check(bitnet_model_tensor(model, i, &tensor));
        const std::string name = tensor.name;
        const double n_bytes = static_cast<double>(tensor.n_bytes);
        if (std::strcmp(tensor.type_name, "I2_S") == 0) {
            const size_t group = index_of(group_of_tensor(name));
            work.group_macs[group] += static_cast<double>(tensor.dims[0]) * static_cast<double>(tensor.dims[1]);
            work.group_bytes[group] += n_bytes;
        } else if (name == (info.head_tied ? "token_embd.weight" : "output.weight")) {
            work.head_bytes = n_bytes;
        } else if (tensor.n_dims == 1) {
            work.norm_bytes += n_bytes;
        }
    }
    work.kv_bytes_per_position = 2.0 * info.n_layer * info.n_head_kv * info.head_dim * (kv_f16 ? 2 : 4);
    work.head_row_bytes = work.head_bytes / info.n_vocab;
    return work;
}

bool kv_is_f16(const bitnet_model_t *model) { return std::strstr(bitnet_model_semantics(model), "kv=f16") != nullptr; }

const std::vector<DecodeMode> &decode_modes() {
    static const std::vector<DecodeMode> modes = {
        {"all logits", BITNET_LOGITS_LAST, true, false, nullptr},
        {"no logits", BITNET_LOGITS_NONE, false, false, nullptr},
        {"greedy, full head", BITNET_LOGITS_LAST, true, true, nullptr},
        {"greedy, certified head", BITNET_LOGITS_LAST, false, true,
         [](bitnet_context_params_t &params) { params.head = BITNET_HEAD_CERTIFIED; }},
        {"all logits, dense weights", BITNET_LOGITS_LAST, true, false, dense_weights},
        {"greedy, full head, dense weights", BITNET_LOGITS_LAST, true, true, dense_weights},
        {"greedy, certified head, dense weights", BITNET_LOGITS_LAST, false, true,
         [](bitnet_context_params_t &params) {
             dense_weights(params);
             params.head = BITNET_HEAD_CERTIFIED;
         }},
    };
    return modes;
}

ContextHandle make_context(const bitnet_model_t *model, int n_threads, int n_ctx, const DecodeMode *mode) {
    bitnet_context_params_t params = {};
    params.struct_size = sizeof(params);
    params.n_ctx = n_ctx;
    params.n_threads = n_threads;
    if (mode != nullptr && mode->adjust != nullptr) mode->adjust(params);
    bitnet_ctx_t *ctx = nullptr;
    check(bitnet_context_create(model, &params, &ctx));
    return ContextHandle(ctx, bitnet_context_free);
}

std::vector<int32_t> bench_tokens(const bitnet_model_t *model, size_t n) {
    constexpr int64_t stride = 7919;  // a prime: spreads the tokens over the vocabulary
    const int64_t n_vocab = model_info(model).n_vocab;
    std::vector<int32_t> tokens(n);
    for (size_t i = 0; i < n; i++) tokens[i] = static_cast<int32_t>((static_cast<int64_t>(i) * stride + 13) % n_vocab);
    return tokens;
}

double time_eval(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits) {
    bitnet_eval_params_t params = {};
    params.struct_size = sizeof(params);
    params.logits = logits;
    const double from = seconds_now();
    check(bitnet_eval_tokens(ctx, tokens, n, &params));
    return seconds_now() - from;
}

double time_prefill(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits) {
    double seconds = 0;
    int n_times = 0;
    for (; n_times == 0 || seconds < seconds_min; n_times++) {
        check(bitnet_context_reset(ctx));
        seconds += time_eval(ctx, tokens, n, logits);
    }
    return seconds / n_times;
}

double time_decode(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits) {
    const int32_t position = bitnet_context_position(ctx);
    double seconds = 0;
    int n_times = 0;
    for (; n_times == 0 || seconds < seconds_min; n_times++) {
        for (size_t i = 0; i < n; i++) seconds += time_eval(ctx, tokens + i, 1, logits);
        check(bitnet_context_truncate(ctx, position));
    }
    return seconds / n_times;
}

double time_greedy(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n) {
    const int32_t position = bitnet_context_position(ctx);
    bitnet_generate_params_t params = {};
    params.struct_size = sizeof(params);
    params.flags = BITNET_GENERATE_IGNORE_END;
    std::vector<int32_t> out(n + 1);  // the first is drawn from logits that are there already
    double seconds = 0;
    int n_times = 0;
    for (; n_times == 0 || seconds < seconds_min; n_times++) {
        check(bitnet_context_truncate(ctx, position - 1));
        time_eval(ctx, tokens + position - 1, 1, BITNET_LOGITS_LAST);
        size_t n_produced = out.size();
        const double from = seconds_now();
        check(bitnet_generate(ctx, &params, out.data(), &n_produced));
        seconds += seconds_now() - from;
        check(bitnet_context_truncate(ctx, position));
    }
    return seconds / n_times;
}

bitnet_head_stats_t head_stats(const bitnet_ctx_t *ctx) {
    bitnet_head_stats_t stats = {};
    stats.struct_size = sizeof(stats);
    check(bitnet_context_get_head_stats(ctx, &stats));
    return stats;
}

bitnet_weight_stats_t weight_stats(const bitnet_ctx_t *ctx) {
    bitnet_weight_stats_t stats = {};
    stats.struct_size = sizeof(stats);
    check(bitnet_context_get_weight_stats(ctx, &stats));
    return stats;
}

// ---- stages -----------------------------------------------------------------------------------------------------

const bitnet_trace_sink_t StageTimes::sink_ = {sizeof(bitnet_trace_sink_t),
                                               BITNET_ABI_VERSION,
                                               "bitnet-bench-stages",
                                               uint64_t{1} << BITNET_EVENT_TENSOR,
                                               nullptr,
                                               StageTimes::on_event,
                                               nullptr,
                                               nullptr};

StageTimes::StageTimes(bitnet_ctx_t *ctx, bool outputs) : ctx_(ctx) {
    std::string selection = "*.codes";  // so that the quantiser's time is not the linears'
    for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; stage++) {
        if (stage == BITNET_STAGE_ATTN_SCORES || stage == BITNET_STAGE_ATTN_SCORES_SOFTMAX) continue;
        if (!outputs && (stage == BITNET_STAGE_FINAL_NORM || stage == BITNET_STAGE_LOGITS)) continue;
        selection += std::string(",") + bitnet_stage_name(stage);
    }
    check(bitnet_trace_select(ctx, selection.c_str()));
    check(bitnet_trace_set_sink(ctx, &sink_, this));
}

StageTimes::~StageTimes() {
    bitnet_trace_set_sink(ctx_, nullptr, nullptr);
    bitnet_trace_select(ctx_, nullptr);
}

bitnet_status_t StageTimes::on_event(void *state, const bitnet_event_t *event) {
    auto *times = static_cast<StageTimes *>(state);
    const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
    if (tensor->stage == BITNET_STAGE_EMBEDDINGS) times->n_tokens_ += tensor->n_rows;
    if (tensor->stage >= 1 && tensor->stage <= BITNET_STAGE_COUNT) {
        times->ns_[static_cast<size_t>(tensor->stage)] += tensor->ns;
        if (times->ternary_kernel_.empty() && linear_of_stage(tensor->stage) != nullptr)
            times->ternary_kernel_ = tensor->kernel;
    } else {
        times->codes_ns_ += tensor->ns;
    }
    return BITNET_OK;
}

double StageTimes::seconds(int32_t stage) const { return static_cast<double>(ns_[static_cast<size_t>(stage)]) * nano; }
double StageTimes::codes_seconds() const { return static_cast<double>(codes_ns_) * nano; }

double StageTimes::group_seconds(LinearGroup group) const {
    double sum = 0;
    for (const Linear &l : linears) sum += l.group == group ? seconds(l.stage) : 0;
    return sum;
}

double StageTimes::ternary_seconds() const {
    double sum = 0;
    for (const Linear &l : linears) sum += seconds(l.stage);
    return sum;
}

double StageTimes::total_seconds() const {
    double sum = codes_seconds();
    for (int32_t stage = 1; stage <= BITNET_STAGE_COUNT; stage++) sum += seconds(stage);
    return sum;
}

}  // namespace bitnet
