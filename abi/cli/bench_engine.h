// The engine as a benchmark drives it: what a token costs by the model's shape, contexts, and a sink that adds up
// stages.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "abi/cli/session.h"
#include "bitnet_c.h"

namespace bitnet {

// The linears of a layer as the engine runs them: those that read the same rows are one piece of work.
enum class LinearGroup { qkv, attn_out, gate_up, down };
constexpr int n_linear_groups = 4;
const char *linear_group_name(LinearGroup group);

// Work of one token, from the model's tensors.
struct TokenWork {
    std::array<double, n_linear_groups> group_macs = {};  // ternary multiply-adds, over all layers
    std::array<double, n_linear_groups> group_bytes = {};
    double head_bytes = 0;  // the embedding's when it is tied
    double head_row_bytes = 0;
    double norm_bytes = 0;
    double kv_bytes_per_position = 0;  // of each earlier position

    double ternary_macs() const;
    double ternary_bytes() const;
    // dense_bytes: of ternary weights read from another copy; 0: the file's.
    double decode_bytes(int position, bool head, double dense_bytes = 0) const;
};
TokenWork work_of(const bitnet_model_t *model, bool kv_f16);
bool kv_is_f16(const bitnet_model_t *model);

// How a token is decoded; a further way is one more line in bench_engine.cpp.
struct DecodeMode {
    const char *name;
    uint32_t logits;                                  // BITNET_LOGITS_...
    bool reads_head;                                  // whether the head's bytes are in the work
    bool greedy;                                      // by bitnet_generate, which finds the tokens itself
    void (*adjust)(bitnet_context_params_t &params);  // NULL: nothing
};
const std::vector<DecodeMode> &decode_modes();

ContextHandle make_context(const bitnet_model_t *model, int n_threads, int n_ctx, const DecodeMode *mode = nullptr);
// Made-up tokens, the same each time, that are no special ones of a usual vocabulary.
std::vector<int32_t> bench_tokens(const bitnet_model_t *model, size_t n);
// Seconds of one eval of `n` tokens from tokens[0] on.
double time_eval(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits);
// The same on the emptied context, the mean of several times when they are short.
double time_prefill(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits);
// Seconds of n evals of one token each, the mean of several times when they are short; the context is then put back to
// where it was.
double time_decode(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, uint32_t logits);

// Seconds of n greedy tokens after the context's position (at least 1), measured likewise. tokens: up to that position.
double time_greedy(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n);
bitnet_head_stats_t head_stats(const bitnet_ctx_t *ctx);
bitnet_weight_stats_t weight_stats(const bitnet_ctx_t *ctx);

// Adds up the time of each stage. Attention's scores are left out, and without `outputs` the head's stages: to show
// them the engine would compute otherwise, or the logits of every row.
class StageTimes {
public:
    StageTimes(bitnet_ctx_t *ctx, bool outputs);  // attaches
    ~StageTimes();                                // detaches every sink
    StageTimes(const StageTimes &) = delete;
    StageTimes &operator=(const StageTimes &) = delete;

    double n_tokens() const { return static_cast<double>(n_tokens_); }  // evaluated meanwhile
    double seconds(int32_t stage) const;
    double codes_seconds() const;  // of the activation quantiser
    double group_seconds(LinearGroup group) const;
    double ternary_seconds() const;
    double total_seconds() const;
    const std::string &ternary_kernel() const { return ternary_kernel_; }

private:
    static bitnet_status_t on_event(void *state, const bitnet_event_t *event);
    static const bitnet_trace_sink_t sink_;

    bitnet_ctx_t *ctx_;
    std::array<uint64_t, BITNET_STAGE_COUNT + 1> ns_ = {};
    uint64_t codes_ns_ = 0;
    uint64_t n_tokens_ = 0;
    std::string ternary_kernel_;
};

}  // namespace bitnet
