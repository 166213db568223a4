// Sections 7 and 8 of the header: evaluating tokens, reading logits.
#include "abi/eval.h"

#include "core/sampler.h"

namespace bitnet {

static EvalRequest request_of(const int32_t *tokens, size_t n, const bitnet_eval_params_t &params) {
    EvalRequest request;
    if (!params.embeddings) require(tokens, "tokens");
    switch (params.logits) {
    case BITNET_LOGITS_LAST: request.keep = KeepLogits::last; break;
    case BITNET_LOGITS_ALL: request.keep = KeepLogits::all; break;
    case BITNET_LOGITS_NONE: request.keep = KeepLogits::none; break;
    default: fail(Status::invalid, "params->logits is %u: expected 0 (last), 1 (all) or 2 (none)", params.logits);
    }
    request.tokens = tokens;
    request.embeddings = params.embeddings;
    request.n = n;
    request.cancel = params.cancel;
    request.cancel_user = params.cancel_user;
    return request;
}

void evaluate(bitnet_ctx &ctx, const EvalRequest &request) {
    ctx.tracing.eval(request);
    if (request.embeddings)
        ctx.history.insert(ctx.history.end(), request.n, -1);
    else
        ctx.history.insert(ctx.history.end(), request.tokens, request.tokens + request.n);
}

// Row i of the kept rows; negative counts from the end.
static int kept_row(const bitnet_ctx &ctx, int32_t i) {
    const int n = ctx.state.n_outputs;
    const int64_t row = i < 0 ? int64_t(n) + i : i;
    if (row < 0 || row >= n) fail(Status::invalid, "row %d: the last eval kept %d rows", i, n);
    return int(row);
}

const float *logits_row(bitnet_ctx &ctx, int32_t i) {
    const int row = kept_row(ctx, i);
    complete_logits(ctx.state);
    return ctx.state.logits.data() + size_t(row) * size_t(ctx.state.model->hp.n_vocab);
}

}  // namespace bitnet

using namespace bitnet;

extern "C" {

bitnet_status_t bitnet_eval_tokens(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n,
                                   const bitnet_eval_params_t *given) {
    return guarded("bitnet_eval_tokens", [&] {
        Entry entry(ctx);
        evaluate(*ctx, request_of(tokens, n, parameters(given, "params")));
    });
}

const float *bitnet_get_logits_ith(bitnet_ctx_t *ctx, int32_t i) {
    const float *row = nullptr;
    guarded("bitnet_get_logits_ith", [&] {
        Entry entry(ctx);
        row = logits_row(*ctx, i);
    });
    return row;
}

bitnet_status_t bitnet_copy_logits(bitnet_ctx_t *ctx, int32_t i, float *out, size_t *n) {
    return guarded("bitnet_copy_logits", [&] {
        Entry entry(ctx);
        copy_out(logits_row(*ctx, i), size_t(ctx->state.model->hp.n_vocab), out, n);
    });
}

int32_t bitnet_logits_count(const bitnet_ctx_t *ctx) { return ctx ? ctx->state.n_outputs : 0; }

const float *bitnet_get_hidden_ith(bitnet_ctx_t *ctx, int32_t i) {
    const float *row = nullptr;
    guarded("bitnet_get_hidden_ith", [&] {
        Entry entry(ctx);
        row = ctx->state.hidden.data() + size_t(kept_row(*ctx, i)) * size_t(ctx->state.model->hp.n_embd);
    });
    return row;
}

bitnet_status_t bitnet_token_logprobs(bitnet_ctx_t *ctx, const int32_t *tokens, size_t n, double *out) {
    return guarded("bitnet_token_logprobs", [&] {
        require(tokens, "tokens");
        require(out, "out");
        Entry entry(ctx);
        const int n_vocab = ctx->state.model->hp.n_vocab;
        if (n > size_t(ctx->state.n_outputs))
            fail(Status::invalid, "n is %zu: the last eval kept %d rows", n, ctx->state.n_outputs);
        for (size_t j = 0; j < n; ++j)
            if (tokens[j] < 0 || tokens[j] >= n_vocab)
                fail(Status::invalid, "token %zu is %d: expected 0 to %d", j, tokens[j], n_vocab - 1);
        for (size_t j = 0; j < n; ++j) out[j] = log_probability(logits_row(*ctx, int32_t(j)), n_vocab, tokens[j]);
    });
}

bitnet_status_t bitnet_top_logits(bitnet_ctx_t *ctx, int32_t i, int32_t k, int32_t *tokens, float *logits) {
    return guarded("bitnet_top_logits", [&] {
        Entry entry(ctx);
        const int n_vocab = ctx->state.model->hp.n_vocab;
        if (k < 1 || k > n_vocab) fail(Status::invalid, "k is %d: expected 1 to %d", k, n_vocab);
        const float *row = logits_row(*ctx, i);
        const std::vector<int32_t> ids = top_logits(row, n_vocab, k);
        for (size_t j = 0; j < ids.size(); ++j) {
            if (tokens) tokens[j] = ids[j];
            if (logits) logits[j] = row[ids[j]];
        }
    });
}

}  // extern "C"
