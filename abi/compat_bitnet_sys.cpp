// Section 14 of the header: the interface of BitNet-rs's bitnet-sys. Its return codes over our own functions; positions
// begin at 0 with every evaluation, as in the wrapper that the crate compiles itself.
#include <climits>

#include "abi/boundary.h"
#include "abi/compat.h"

using namespace bitnet;

namespace {

// Each function numbers its failures by itself; these are all of them.
constexpr int bad_argument = -1;
constexpr int tokenize_too_small = -2, tokenize_internal = -4;
constexpr int eval_failed = -2, eval_no_logits = -3, eval_too_small = -4, eval_internal = -5;
constexpr int decode_no_logits = -2, decode_failed = -3, decode_too_small = -5;

// Only a caller's mistake: sets the last error.
template <class Check> bool arguments_wrong(const char *function, const Check &check) {
    return guarded(function, check) != BITNET_OK;
}

// Refuses what an eval would refuse before the context forgets what it holds.
void check_tokens(const bitnet_ctx &ctx, const int32_t *tokens, int n) {
    const int n_vocab = ctx.loaded->model->hp.n_vocab, n_ctx = ctx.state.config.n_ctx;
    if (n > n_ctx) fail(Status::overflow, "n is %d: the context holds %d", n, n_ctx);
    for (int i = 0; i < n; ++i)
        if (tokens[i] < 0 || tokens[i] >= n_vocab)
            fail(Status::invalid, "token %d is %d: expected 0 to %d", i, tokens[i], n_vocab - 1);
}

int evaluate_anew(const char *function, bitnet_ctx_t *ctx, const int32_t *tokens, int n) {
    bitnet_status_t status = guarded(function, [&] { check_tokens(*ctx, tokens, n); });
    if (status == BITNET_OK) status = bitnet_context_reset(ctx);
    if (status == BITNET_OK) status = bitnet_eval_tokens(ctx, tokens, size_t(n), nullptr);
    return status == BITNET_OK ? 0 : status == BITNET_E_INTERNAL ? eval_internal : eval_failed;
}

}  // namespace

extern "C" {

bitnet_model_t *bitnet_model_new_from_file(const char *path) {
    bitnet_model_t *model = nullptr;
    bitnet_load(path, nullptr, &model);
    return model;
}

bitnet_ctx_t *bitnet_context_new(bitnet_model_t *model, const bitnet_params_t *given) {
    bitnet_ctx_t *ctx = nullptr;
    if (arguments_wrong("bitnet_context_new", [&] { require(given, "params"); })) return nullptr;
    bitnet_context_params_t params{};
    params.struct_size = sizeof params;
    params.n_ctx = given->n_ctx;
    params.n_threads = given->n_threads;
    bitnet_context_create(model, &params, &ctx);
    return ctx;
}

int bitnet_tokenize(bitnet_model_t *model, const char *text, int add_bos, int parse_special, int32_t *out, int cap) {
    const uint32_t flags =
        (add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
    size_t n = cap > 0 ? size_t(cap) : 0;
    switch (bitnet_tokenize_text(model, text, SIZE_MAX, flags, cap == 0 ? nullptr : out, &n)) {
    case BITNET_OK: return n <= size_t(INT_MAX) ? int(n) : tokenize_internal;
    case BITNET_E_INVALID: return bad_argument;
    case BITNET_E_BUFFER: return tokenize_too_small;
    default: return tokenize_internal;
    }
}

int bitnet_eval(bitnet_ctx_t *ctx, const int32_t *tokens, int n, float *logits, int cap) {
    if (arguments_wrong("bitnet_eval", [&] {
            require(ctx, "ctx");
            require(tokens, "tokens");
            require_positive(n, "n");
            require(logits, "logits");
            require_positive(cap, "cap");
        }))
        return bad_argument;
    const int n_vocab = ctx->loaded->model->hp.n_vocab;
    if (guarded("bitnet_eval", [&] {
            if (cap < n_vocab) fail(Status::buffer, "cap is %d: expected at least %d", cap, n_vocab);
        }))
        return eval_too_small;
    if (const int failure = evaluate_anew("bitnet_eval", ctx, tokens, n)) return failure;
    size_t need = size_t(cap);
    return bitnet_copy_logits(ctx, -1, logits, &need) == BITNET_OK ? 0 : eval_no_logits;
}

int bitnet_prefill(bitnet_ctx_t *ctx, const int32_t *tokens, int n) {
    if (arguments_wrong("bitnet_prefill", [&] {
            require(ctx, "ctx");
            require(tokens, "tokens");
            require_positive(n, "n");
        }))
        return bad_argument;
    return evaluate_anew("bitnet_prefill", ctx, tokens, n);
}

int bitnet_vocab_size(bitnet_ctx_t *ctx) { return ctx ? ctx->loaded->model->hp.n_vocab : -1; }

int bitnet_decode_greedy(bitnet_model_t *model, bitnet_ctx_t *ctx, int eos, int eot, int max, int *out, int cap) {
    if (arguments_wrong("bitnet_decode_greedy", [&] {
            require(model, "model");
            require(ctx, "ctx");
            require_positive(max, "max");
            require(out, "out");
            require_positive(cap, "cap");
        }))
        return bad_argument;
    for (int n = 0; n < max; ++n) {
        if (n == cap) {
            guarded("bitnet_decode_greedy", [&] { fail(Status::buffer, "cap is %d: no end token among them", cap); });
            return decode_too_small;
        }
        int32_t token = 0;
        if (bitnet_top_logits(ctx, -1, 1, &token, nullptr) != BITNET_OK) return decode_no_logits;
        out[n] = token;
        if (token == eos || token == eot) return n + 1;
        if (bitnet_eval_tokens(ctx, &token, 1, nullptr) != BITNET_OK) return decode_failed;
    }
    return max;
}

}  // extern "C"
