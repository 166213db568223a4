// Contexts, evaluation, logits.
#include <algorithm>
#include <new>

#include "abi/llama/objects.h"

namespace bitnet {

void forget_outputs(llama_context &ctx) {
    ctx.outputs.clear();
    ctx.last_only = false;
}

namespace {

constexpr int32_t no_room = 1, wrong_batch = -1, other_failure = -2;
constexpr uint32_t n_ctx_default = 512;

// What is wrong with the batch; null: nothing.
const char *fault_of(const llama_batch &batch, int32_t position) {
    if (batch.n_tokens < 1) return "the batch holds no token";
    if (!batch.token && !batch.embd) return "the batch has neither tokens nor embeddings";
    for (int32_t i = 0; i < batch.n_tokens; ++i) {
        if (batch.n_seq_id && batch.n_seq_id[i] != 1) return "a token is in no or in several sequences: expected one";
        if (batch.seq_id && batch.seq_id[i] && batch.seq_id[i][0] != 0)
            return "seq_id is not 0: a context holds one sequence";
        if (batch.pos && batch.pos[i] != batch.pos[0] + i) return "the positions are not consecutive";
    }
    if (batch.pos && (batch.pos[0] < 0 || batch.pos[0] > position))
        return "the first position leaves a gap after those that are held";
    return nullptr;
}

// The rows whose logits are wanted; no flag at all wants every row.
std::vector<int32_t> wanted_rows(const llama_context &ctx, const llama_batch &batch) {
    std::vector<int32_t> rows;
    if (batch.logits && !ctx.logits_all)
        for (int32_t i = 0; i < batch.n_tokens; ++i)
            if (batch.logits[i]) rows.push_back(i);
    if (rows.empty())
        for (int32_t i = 0; i < batch.n_tokens; ++i) rows.push_back(i);
    return rows;
}

bool tokens_in_range(const llama_context &ctx, const llama_batch &batch) {
    bitnet_model_info_t info{};
    info.struct_size = sizeof info;
    bitnet_model_get_info(ctx.model->bitnet, &info);
    return !batch.token || batch.embd || std::all_of(batch.token, batch.token + batch.n_tokens, [&](llama_token t) {
        return t >= 0 && t < info.n_vocab;
    });
}

int32_t decode(llama_context &ctx, const llama_batch &batch) {
    const int32_t position = bitnet_context_position(ctx.bitnet), n_ctx = bitnet_context_capacity(ctx.bitnet);
    if (const char *fault = fault_of(batch, position)) {
        log_failure("llama_decode", fault);
        return wrong_batch;
    }
    if (!tokens_in_range(ctx, batch)) {
        log_failure("llama_decode", "a token is not in the vocabulary");
        return wrong_batch;
    }
    const int32_t first = batch.pos ? batch.pos[0] : position;
    if (batch.n_tokens > n_ctx - first) {
        log_failure("llama_decode", "the context has no room for the batch");
        return no_room;
    }
    std::vector<int32_t> rows = wanted_rows(ctx, batch);
    const bool last_only = rows.size() == 1 && rows[0] == batch.n_tokens - 1;
    bitnet_eval_params_t params{};
    params.struct_size = sizeof params;
    params.logits = last_only ? BITNET_LOGITS_LAST : BITNET_LOGITS_ALL;
    params.embeddings = batch.embd;
    if ((first < position && bitnet_context_truncate(ctx.bitnet, first) != BITNET_OK) ||
        bitnet_eval_tokens(ctx.bitnet, batch.token, size_t(batch.n_tokens), &params) != BITNET_OK) {
        forget_outputs(ctx);
        log_failure("llama_decode");
        return other_failure;
    }
    ctx.outputs = std::move(rows);
    ctx.last_only = last_only;
    return 0;
}

}  // namespace
}  // namespace bitnet

using namespace bitnet;

extern "C" {

llama_context_params llama_context_default_params(void) {
    llama_context_params params{};
    params.n_ctx = n_ctx_default;
    params.n_batch = 2048;
    params.n_ubatch = 512;
    params.n_seq_max = 1;
    return params;
}

llama_context *llama_new_context_with_model(llama_model *model, llama_context_params params) {
    bitnet_context_params_t create{};
    create.struct_size = sizeof create;
    create.n_ctx = int32_t(std::min(params.n_ctx, uint32_t(INT32_MAX)));
    create.n_threads = params.n_threads;
    bitnet_ctx_t *handle = nullptr;
    if (bitnet_context_create(model ? model->bitnet : nullptr, &create, &handle) != BITNET_OK) {
        log_failure("llama_new_context_with_model");
        return nullptr;
    }
    llama_context *const ctx = new (std::nothrow) llama_context(model, handle);
    if (ctx)
        ctx->logits_all = params.logits_all;
    else
        bitnet_context_free(handle);
    return ctx;
}

llama_context *llama_init_from_model(llama_model *model, llama_context_params params) {
    return llama_new_context_with_model(model, params);
}

void llama_free(llama_context *ctx) { delete ctx; }

#ifdef BITNET_AVAILABLE
#error "the library is built as the old generation sees it"
#endif
llama_model *llama_get_model(const llama_context *ctx) { return ctx ? ctx->model : nullptr; }

uint32_t llama_n_ctx(const llama_context *ctx) { return ctx ? uint32_t(bitnet_context_capacity(ctx->bitnet)) : 0; }

void llama_set_causal_attn(llama_context *, bool) {}

int32_t llama_get_kv_cache_token_count(const llama_context *ctx) {
    return ctx ? bitnet_context_position(ctx->bitnet) : 0;
}

void llama_kv_cache_clear(llama_context *ctx) {
    if (!ctx) return;
    forget_outputs(*ctx);
    bitnet_context_reset(ctx->bitnet);
}

llama_memory_t llama_get_memory(const llama_context *ctx) {
    return reinterpret_cast<llama_memory_t>(const_cast<llama_context *>(ctx));
}

void llama_memory_clear(llama_memory_t mem, bool) { llama_kv_cache_clear(reinterpret_cast<llama_context *>(mem)); }

int32_t llama_decode(llama_context *ctx, llama_batch batch) {
    if (!ctx) {
        log_failure("llama_decode", "ctx is NULL");
        return wrong_batch;
    }
    try {
        return decode(*ctx, batch);
    } catch (...) {
        log_failure("llama_decode", "out of memory");
        return other_failure;
    }
}

float *llama_get_logits_ith(llama_context *ctx, int32_t i) {
    if (!ctx) return nullptr;
    const std::vector<int32_t> &rows = ctx->outputs;
    if (i < 0) {
        if (i < -int32_t(rows.size())) return nullptr;
        i = rows[rows.size() - size_t(-int64_t(i))];
    } else if (!std::binary_search(rows.begin(), rows.end(), i)) {
        return nullptr;
    }
    return const_cast<float *>(bitnet_get_logits_ith(ctx->bitnet, ctx->last_only ? 0 : i));
}

float *llama_get_logits(llama_context *ctx) { return llama_get_logits_ith(ctx, -1); }

}  // extern "C"
