// bitnet_cpp.h, all but its first part: sizes, rows and error buffers over our own functions.
#include <climits>

#include "abi/boundary.h"
#include "abi/compat.h"
#include "bitnet_cpp.h"

using namespace bitnet;

namespace {

struct ModelFree {
    void operator()(bitnet_model_t *model) const { bitnet_model_free(model); }
};
struct ContextFree {
    void operator()(bitnet_ctx_t *ctx) const { bitnet_context_free(ctx); }
};
using ModelHandle = std::unique_ptr<bitnet_model_t, ModelFree>;
using ContextHandle = std::unique_ptr<bitnet_ctx_t, ContextFree>;

// Where a function reports: what it was given for its text and its numbers.
struct Report {
    const char *function;
    char *err;
    int32_t err_len;
    int32_t *first, *second;  // the numbers that come out; second may be absent

    bool has_error_buffer() const { return err && err_len > 0; }
};

void zero(const Report &report) {
    if (report.first) *report.first = 0;
    if (report.second) *report.second = 0;
    if (report.has_error_buffer()) clear_error(report.err, report.err_len);
}

// Runs `body`, which throws; 0, or -1 with the numbers zeroed and the text written.
template <class Body> int reported(const Report &report, const Body &body) {
    zero(report);
    const bitnet_status_t status = guarded(report.function, [&] {
        if (!report.has_error_buffer()) fail(Status::invalid, "err is NULL or err_len is %d", report.err_len);
        body();
    });
    if (status == BITNET_OK) return 0;
    zero(report);
    const char *const text =
        bitnet_last_error() + std::strlen(report.function) + 2;  // guarded put "<function>: " there
    if (report.has_error_buffer()) write_error(report.err, report.err_len, report.function, text);
    return -1;
}

// `weights`: false when they are not read, so that their codes need no check.
ModelHandle open_model(const char *path, bool weights) {
    bitnet_load_params_t params{};
    params.struct_size = sizeof params;
    params.flags = weights ? 0 : BITNET_LOAD_UNCHECKED_CODES;
    bitnet_model_t *model = nullptr;
    check(bitnet_load(path, &params, &model));
    return ModelHandle(model);
}

ContextHandle open_context(const bitnet_model_t *model, int32_t n_ctx) {
    bitnet_context_params_t params{};
    params.struct_size = sizeof params;
    params.n_ctx = n_ctx;
    bitnet_ctx_t *ctx = nullptr;
    check(bitnet_context_create(model, &params, &ctx));
    return ContextHandle(ctx);
}

void write_tokens(const bitnet_model_t *model, const char *prompt, int add_bos, int parse_special, int32_t *out,
                  int32_t capacity, int32_t *out_len) {
    const uint32_t flags =
        (add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) | (parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
    size_t n = capacity > 0 ? size_t(capacity) : 0;
    check(bitnet_tokenize_text(model, prompt, SIZE_MAX, flags, n ? out : nullptr, &n));
    if (n == 0) fail(Status::invalid, "the prompt gives no token");
    if (n > size_t(INT32_MAX)) fail(Status::unsupported, "%zu tokens: expected at most %d", n, INT32_MAX);
    *out_len = int32_t(n);
}

struct Logits {
    float *out;
    int32_t capacity;
    int32_t *rows, *cols;

    bool size_alone() const { return !out || capacity <= 0; }
};

// Writes the shape; a buffer that cannot hold it is a failure.
void write_shape(const Logits &logits, int32_t n_tokens, int32_t n_vocab) {
    const int64_t need = int64_t(n_tokens) * n_vocab;
    if (need > INT32_MAX)
        fail(Status::unsupported, "%d rows of %d logits: a capacity is at most %d", n_tokens, n_vocab, INT32_MAX);
    if (!logits.size_alone() && logits.capacity < need)
        fail(Status::buffer, "logits_capacity is %d: expected at least %lld", logits.capacity,
             static_cast<long long>(need));
    *logits.rows = n_tokens;
    *logits.cols = n_vocab;
}

void evaluate_into(bitnet_ctx_t *ctx, const int32_t *tokens, int32_t n_tokens, float *out) {
    bitnet_eval_params_t params{};
    params.struct_size = sizeof params;
    params.logits = BITNET_LOGITS_ALL;
    check(bitnet_eval_tokens(ctx, tokens, size_t(n_tokens), &params));
    const size_t n_vocab = size_t(ctx->loaded->model->hp.n_vocab);
    for (int32_t i = 0; i < n_tokens; ++i) {
        size_t n = n_vocab;
        check(bitnet_copy_logits(ctx, i, out + size_t(i) * n_vocab, &n));
    }
}

void check_eval_arguments(const int32_t *tokens, int32_t n_tokens, const Logits &logits) {
    require(tokens, "tokens");
    require_positive(n_tokens, "n_tokens");
    require(logits.rows, "out_rows");
    require(logits.cols, "out_cols");
}

}  // namespace

// The model is the context's: it lives as long.
struct bitnet_context_t {
    ContextHandle ctx;
    ModelHandle model;
};
struct bitnet_session_t {
    bitnet_context_t context;
};

namespace {

bitnet_context_t open_both(const char *model_path, int32_t n_ctx, int32_t n_gpu_layers) {
    require(model_path, "model_path");
    require_positive(n_ctx, "n_ctx");
    if (n_gpu_layers != 0)
        log_line(BITNET_LOG_WARN, "n_gpu_layers has no effect: there is no GPU, the CPU does all layers");
    bitnet_context_t both;
    both.model = open_model(model_path, true);
    both.ctx = open_context(both.model.get(), n_ctx);
    return both;
}

void eval_from(const bitnet_context_t &context, bool anew, const int32_t *tokens, int32_t n_tokens,
               const Logits &logits) {
    check_eval_arguments(tokens, n_tokens, logits);
    bitnet_ctx_t *ctx = context.ctx.get();
    const int32_t n_past = anew ? 0 : bitnet_context_position(ctx), n_ctx = bitnet_context_capacity(ctx);
    if (n_tokens > n_ctx - n_past)
        fail(Status::overflow, "context overflow: position %d + %d tokens: the context holds %d", n_past, n_tokens,
             n_ctx);
    write_shape(logits, n_tokens, ctx->loaded->model->hp.n_vocab);
    if (logits.size_alone()) return;
    if (anew) check(bitnet_context_reset(ctx));
    evaluate_into(ctx, tokens, n_tokens, logits.out);
}

}  // namespace

extern "C" {

int crossval_bitnet_tokenize(const char *model_path, const char *prompt, int add_bos, int parse_special,
                             int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err, int32_t err_len) {
    return reported({"crossval_bitnet_tokenize", err, err_len, out_len, nullptr}, [&] {
        require(model_path, "model_path");
        require(prompt, "prompt");
        require(out_len, "out_len");
        const ModelHandle model = open_model(model_path, false);
        write_tokens(model.get(), prompt, add_bos, parse_special, out_tokens, out_capacity, out_len);
    });
}

int crossval_bitnet_eval_with_tokens(const char *model_path, const int32_t *tokens, int32_t n_tokens, int32_t n_ctx,
                                     float *out_logits, int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols,
                                     char *err, int32_t err_len) {
    return reported({"crossval_bitnet_eval_with_tokens", err, err_len, out_rows, out_cols}, [&] {
        const Logits logits{out_logits, logits_capacity, out_rows, out_cols};
        require(model_path, "model_path");
        check_eval_arguments(tokens, n_tokens, logits);
        require_positive(n_ctx, "n_ctx");
        if (n_tokens > n_ctx)
            fail(Status::overflow, "context overflow: %d tokens: the context holds %d", n_tokens, n_ctx);
        const ModelHandle model = open_model(model_path, !logits.size_alone());
        write_shape(logits, n_tokens, model->loaded->model->hp.n_vocab);
        if (logits.size_alone()) return;
        const ContextHandle ctx = open_context(model.get(), n_ctx);
        evaluate_into(ctx.get(), tokens, n_tokens, out_logits);
    });
}

int bitnet_cpp_init_context(bitnet_context_t **out_ctx, const char *model_path, int32_t n_ctx, int32_t n_gpu_layers,
                            char *err, int32_t err_len) {
    if (out_ctx) *out_ctx = nullptr;
    return reported({"bitnet_cpp_init_context", err, err_len, nullptr, nullptr}, [&] {
        require(out_ctx, "out_ctx");
        *out_ctx = new bitnet_context_t(open_both(model_path, n_ctx, n_gpu_layers));
    });
}

int bitnet_cpp_free_context(bitnet_context_t *ctx) {
    delete ctx;
    return 0;
}

void bitnet_cpp_reset_context(bitnet_context_t *ctx) {
    if (ctx) bitnet_context_reset(ctx->ctx.get());
}

int32_t bitnet_cpp_get_position(const bitnet_context_t *ctx) {
    return ctx ? bitnet_context_position(ctx->ctx.get()) : -1;
}

int bitnet_cpp_tokenize_with_context(const bitnet_context_t *ctx, const char *prompt, int add_bos, int parse_special,
                                     int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err,
                                     int32_t err_len) {
    return reported({"bitnet_cpp_tokenize_with_context", err, err_len, out_len, nullptr}, [&] {
        require(ctx, "ctx");
        require(prompt, "prompt");
        require(out_len, "out_len");
        write_tokens(ctx->model.get(), prompt, add_bos, parse_special, out_tokens, out_capacity, out_len);
    });
}

int bitnet_cpp_eval_with_context(bitnet_context_t *ctx, const int32_t *tokens, int32_t n_tokens, int32_t seq_id,
                                 float *out_logits, int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols,
                                 char *err, int32_t err_len) {
    return reported({"bitnet_cpp_eval_with_context", err, err_len, out_rows, out_cols}, [&] {
        require(ctx, "ctx");
        if (seq_id != 0) fail(Status::unsupported, "seq_id is %d: expected 0, a context holds one sequence", seq_id);
        eval_from(*ctx, false, tokens, n_tokens, {out_logits, logits_capacity, out_rows, out_cols});
    });
}

int bitnet_cpp_eval_gpu(const bitnet_context_t *ctx, const int32_t *tokens, int32_t n_tokens, float *out_logits,
                        int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols, char *err, int32_t err_len) {
    return reported({"bitnet_cpp_eval_gpu", err, err_len, out_rows, out_cols}, [&] {
        require(ctx, "ctx");
        check_eval_arguments(tokens, n_tokens, {out_logits, logits_capacity, out_rows, out_cols});
        fail(Status::unsupported, "there is no GPU: bitnet_cpp_eval_with_context evaluates on the CPU");
    });
}

int bitnet_cpp_session_create(bitnet_session_t **out_session, const char *model_path, const char *tokenizer_path,
                              int32_t n_ctx, int32_t n_gpu_layers, char *err, int32_t err_len) {
    if (out_session) *out_session = nullptr;
    return reported({"bitnet_cpp_session_create", err, err_len, nullptr, nullptr}, [&] {
        require(out_session, "out_session");
        if (tokenizer_path)
            fail(Status::unsupported, "tokenizer_path is %s: expected NULL, the tokenizer is the model file's",
                 quoted(tokenizer_path).c_str());
        *out_session = new bitnet_session_t{open_both(model_path, n_ctx, n_gpu_layers)};
    });
}

int bitnet_cpp_session_free(bitnet_session_t *session) {
    delete session;
    return 0;
}

int bitnet_cpp_session_tokenize(const bitnet_session_t *session, const char *prompt, int add_bos, int parse_special,
                                int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err,
                                int32_t err_len) {
    return reported({"bitnet_cpp_session_tokenize", err, err_len, out_len, nullptr}, [&] {
        require(session, "session");
        require(prompt, "prompt");
        require(out_len, "out_len");
        write_tokens(session->context.model.get(), prompt, add_bos, parse_special, out_tokens, out_capacity, out_len);
    });
}

int bitnet_cpp_session_eval(const bitnet_session_t *session, const int32_t *tokens, int32_t n_tokens, float *out_logits,
                            int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols, char *err, int32_t err_len) {
    return reported({"bitnet_cpp_session_eval", err, err_len, out_rows, out_cols}, [&] {
        require(session, "session");
        eval_from(session->context, true, tokens, n_tokens, {out_logits, logits_capacity, out_rows, out_cols});
    });
}

int bitnet_cpp_get_capabilities(bitnet_capabilities_t *out_caps) {
    if (!out_caps) return -1;
    *out_caps = {};
    for (int32_t i = 0; i < bitnet_isa_count(); ++i) {
        const std::string isa = bitnet_isa_name(i);
        const int usable = bitnet_isa_usable(i);
        if (isa == "avx2") out_caps->has_avx2 = usable;
        if (isa == "avx512vnni") out_caps->has_avx512 = usable;
        if (isa == "neon") out_caps->has_neon = usable;
    }
    return 0;
}

}  // extern "C"
