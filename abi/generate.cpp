// Section 9 of the header: generating tokens.
#include <algorithm>
#include <cmath>

#include "abi/boundary.h"
#include "abi/eval.h"
#include "core/sampler.h"

namespace bitnet {
namespace {

constexpr int repeat_last_n_default = 64;
constexpr int certified_most = 64;  // with more candidates to tell apart the bounds overlap too much

struct Generation {
    SamplerSettings settings;
    size_t repeat_last_n;
    size_t limit;  // tokens at most
    std::vector<int32_t> end_ids;
    std::vector<std::string> stop_strings;
    size_t longest_stop = 0;
    int needed;      // of the largest logits, to draw a token
    bool certified;  // the full head is left out where the bound allows
};

void check_finite(float value, float least, const char *name) {
    if (!(value >= least) || std::isinf(value))
        fail(Status::invalid, "params->%s is %g: expected a finite value of at least %g", name, double(value),
             double(least));
}

SamplerSettings settings_of(const bitnet_generate_params_t &params) {
    check_finite(params.temperature, 0, "temperature");
    check_finite(params.top_p, 0, "top_p");
    check_finite(params.min_p, 0, "min_p");
    check_finite(params.repeat_penalty, 0, "repeat_penalty");
    if (params.top_k < 0) fail(Status::invalid, "params->top_k is %d: expected 0 or more", params.top_k);
    SamplerSettings settings;
    settings.temperature = params.temperature;
    settings.top_k = params.top_k;
    settings.top_p = params.top_p;
    settings.min_p = params.min_p;
    settings.repeat_penalty = params.repeat_penalty;
    settings.seed = params.seed;
    return settings;
}

Generation plan(const bitnet_ctx &ctx, const bitnet_generate_params_t &params, size_t capacity) {
    Generation g;
    g.settings = settings_of(params);
    if (params.max_tokens < 0) fail(Status::invalid, "params->max_tokens is %d: expected 0 or more", params.max_tokens);
    if (params.repeat_last_n < 0)
        fail(Status::invalid, "params->repeat_last_n is %d: expected 0 or more", params.repeat_last_n);
    if (params.flags & ~BITNET_GENERATE_IGNORE_END)
        fail(Status::invalid, "params->flags is 0x%x: expected BITNET_GENERATE_... flags", params.flags);
    g.repeat_last_n = size_t(params.repeat_last_n ? params.repeat_last_n : repeat_last_n_default);
    g.limit = std::min(params.max_tokens ? size_t(params.max_tokens) : SIZE_MAX, capacity);
    if (!(params.flags & BITNET_GENERATE_IGNORE_END)) g.end_ids = ctx.loaded->model->tokenizer.end_ids();
    if (params.n_stop_tokens) require(params.stop_tokens, "params->stop_tokens");
    g.end_ids.insert(g.end_ids.end(), params.stop_tokens, params.stop_tokens + params.n_stop_tokens);
    if (params.n_stop_strings) require(params.stop_strings, "params->stop_strings");
    for (size_t i = 0; i < params.n_stop_strings; ++i) {
        require(params.stop_strings[i], "params->stop_strings[i]");
        g.stop_strings.emplace_back(params.stop_strings[i]);
        if (g.stop_strings.back().empty()) fail(Status::invalid, "params->stop_strings[%zu] is empty", i);
        g.longest_stop = std::max(g.longest_stop, g.stop_strings.back().size());
    }
    g.needed = logits_needed(ctx.state.model->hp.n_vocab, g.settings, g.repeat_last_n);
    g.certified = ctx.certified && g.needed <= certified_most;
    return g;
}

// Whether the text that grew by `added` bytes now contains a stop string: only its end can be new.
bool contains_stop(const Generation &g, const std::string &text, size_t added) {
    const size_t reach = added + g.longest_stop;
    const size_t from = text.size() > reach ? text.size() - reach : 0;
    return std::any_of(g.stop_strings.begin(), g.stop_strings.end(),
                       [&](const std::string &stop) { return text.find(stop, from) != std::string::npos; });
}

bool ends(const bitnet_ctx &ctx, const Generation &g, int32_t token, std::string &text) {
    if (std::find(g.end_ids.begin(), g.end_ids.end(), token) != g.end_ids.end()) return true;
    if (g.stop_strings.empty()) return false;
    const std::string piece = ctx.loaded->model->tokenizer.decode(&token, 1, false);
    text += piece;
    return contains_stop(g, text, piece.size());
}

const CompactHead &compact_head_of(bitnet_ctx &ctx) {
    return ctx.loaded->compact_head.get(
        [&] { return std::make_unique<const CompactHead>(ctx.loaded->model->head, ctx.state.pool); });
}

// The token that the full head would give, without it where the bound allows; then `logits` is null.
int32_t next_token(bitnet_ctx &ctx, const Generation &g, uint64_t draw, const float *&logits) {
    if (ctx.certified && ctx.state.logits_left_out) {
        std::vector<Candidate> candidates;
        if (head_candidates(ctx.state, compact_head_of(ctx), g.needed, candidates)) {
            ++ctx.n_certified;
            ctx.n_rows_computed += candidates.size();
            logits = nullptr;
            return sample(std::move(candidates), g.settings, draw);
        }
    }
    if (ctx.certified) ++ctx.n_full;
    logits = logits_row(ctx, -1);
    const size_t n = std::min(g.repeat_last_n, ctx.history.size());
    return sample(logits, ctx.state.model->hp.n_vocab, g.settings, draw, ctx.history.data() + ctx.history.size() - n,
                  n);
}

void generate(bitnet_ctx &ctx, const bitnet_generate_params_t &params, int32_t *out, size_t *n) {
    const Generation g = plan(ctx, params, out ? *n : SIZE_MAX);
    *n = 0;
    std::string text;
    while (*n < g.limit) {
        const float *logits = nullptr;
        const int32_t token = next_token(ctx, g, *n, logits);
        if (out) out[*n] = token;
        ++*n;
        if (params.on_token && params.on_token(params.on_token_user, token, logits, ctx.state.model->hp.n_vocab))
            fail(Status::cancelled, "stopped by on_token after %zu tokens", *n);
        if (ends(ctx, g, token, text) || *n == g.limit || ctx.state.position == ctx.state.config.n_ctx) return;
        EvalRequest request;
        request.tokens = &token;
        request.n = 1;
        request.leave_out_logits = g.certified;
        evaluate(ctx, request);
    }
}

}  // namespace
}  // namespace bitnet

using namespace bitnet;

extern "C" bitnet_status_t bitnet_generate(bitnet_ctx_t *ctx, const bitnet_generate_params_t *given, int32_t *out,
                                           size_t *n) {
    return guarded("bitnet_generate", [&] {
        require(n, "n");
        Entry entry(ctx);
        const bitnet_generate_params_t params = parameters(given, "params");
        if (!out && !params.on_token)
            fail(Status::invalid, "out is NULL and params->on_token too: nobody takes the tokens");
        generate(*ctx, params, out, n);
    });
}
