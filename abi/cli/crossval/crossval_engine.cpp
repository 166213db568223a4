// crossval: a library with the C interface that BitNet-rs's crate `crossval` declares. With the functions on a context
// the model is loaded once, else at each call.
#include <cstring>
#include <limits>
#include <memory>

#include "abi/cli/crossval/dynamic_library.h"
#include "abi/cli/crossval/peer.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr int32_t error_bytes = 512;  // as its callers give it

// The interface, declared once more: 0 or -1; NULL or no capacity asks for the size.
extern "C" {
typedef int crossval_tokenize_t(const char *model_path, const char *prompt, int add_bos, int parse_special,
                                int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err,
                                int32_t err_len);
typedef int crossval_eval_t(const char *model_path, const int32_t *tokens, int32_t n_tokens, int32_t n_ctx,
                            float *out_logits, int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols, char *err,
                            int32_t err_len);
typedef int init_context_t(void **out_ctx, const char *model_path, int32_t n_ctx, int32_t n_gpu_layers, char *err,
                           int32_t err_len);
typedef int free_context_t(void *ctx);
typedef int tokenize_with_context_t(const void *ctx, const char *prompt, int add_bos, int parse_special,
                                    int32_t *out_tokens, int32_t out_capacity, int32_t *out_len, char *err,
                                    int32_t err_len);
typedef int eval_with_context_t(void *ctx, const int32_t *tokens, int32_t n_tokens, int32_t seq_id, float *out_logits,
                                int32_t logits_capacity, int32_t *out_rows, int32_t *out_cols, char *err,
                                int32_t err_len);
}

class CrossvalEngine : public Engine {
public:
    CrossvalEngine(std::string model, const std::string &path) : library_(path), model_(std::move(model)) {
        has_context_ = library_.has("bitnet_cpp_init_context") && library_.has("bitnet_cpp_eval_with_context") &&
                       library_.has("bitnet_cpp_tokenize_with_context") && library_.has("bitnet_cpp_free_context");
        // A library with functions of its own that was linked with one that has these, such as libbitnet itself.
        if (library_.defines("crossval_bitnet_eval_with_tokens") && !library_.defines("bitnet_cpp_eval_with_context"))
            has_context_ = false;
        if (has_context_) {
            library_.find("bitnet_cpp_init_context", init_context_);
            library_.find("bitnet_cpp_free_context", free_context_);
            library_.find("bitnet_cpp_tokenize_with_context", tokenize_with_context_);
            library_.find("bitnet_cpp_eval_with_context", eval_with_context_);
        } else {
            library_.find("crossval_bitnet_tokenize", tokenize_);
            library_.find("crossval_bitnet_eval_with_tokens", eval_);
        }
    }
    ~CrossvalEngine() override { close(); }

    std::string name() const override {
        return has_context_ ? "crossval interface, persistent context" : "crossval interface";
    }

    Ids tokenize(const std::string &text, const TokenizeFlags &flags) override {
        if (text.find('\0') != std::string::npos)
            throw CommandError("the text has a NUL, which this interface ends at");
        if (has_context_ && !ctx_) open(1);
        const auto call = [&](int32_t *out, int32_t capacity, int32_t *n) {
            return has_context_ ? tokenize_with_context_(ctx_, text.c_str(), flags.add_bos, flags.parse_special, out,
                                                         capacity, n, error_, error_bytes)
                                : tokenize_(model_.c_str(), text.c_str(), flags.add_bos, flags.parse_special, out,
                                            capacity, n, error_, error_bytes);
        };
        int32_t n = 0;
        check(call(nullptr, 0, &n), "tokenize");
        if (n <= 0) return {};
        Ids ids(static_cast<size_t>(n));
        check(call(ids.data(), n, &n), "tokenize");
        if (n < 0 || size_t(n) > ids.size())
            throw CommandError(text_of("tokenize: %d ids, where %zu were announced", n, ids.size()));
        ids.resize(size_t(n));
        return ids;
    }

    void eval(const Ids &tokens, const std::function<void(size_t, size_t)> &begin,
              const std::function<void(const float *)> &sink) override {
        const auto n = int32_t(tokens.size());
        if (has_context_) open(n);  // a new one for each: nothing of the prompt before can be left
        const auto call = [&](float *out, int32_t capacity, int32_t *rows, int32_t *columns) {
            return has_context_
                       ? eval_with_context_(ctx_, tokens.data(), n, 0, out, capacity, rows, columns, error_,
                                            error_bytes)
                       : eval_(model_.c_str(), tokens.data(), n, n, out, capacity, rows, columns, error_, error_bytes);
        };
        int32_t n_rows = 0, n_columns = 0;
        check(call(nullptr, 0, &n_rows, &n_columns), "eval");
        const int64_t size = int64_t(n_rows) * n_columns;
        if (n_rows <= 0 || n_columns <= 0 || size > std::numeric_limits<int32_t>::max())
            throw CommandError(text_of("eval: logits of %d x %d: expected 1 to %d values in all", n_rows, n_columns,
                                       std::numeric_limits<int32_t>::max()));
        std::vector<float> logits(static_cast<size_t>(size), std::numeric_limits<float>::quiet_NaN());
        int32_t rows_now = 0, columns_now = 0;
        check(call(logits.data(), int32_t(size), &rows_now, &columns_now), "eval");
        if (rows_now != n_rows || columns_now != n_columns)
            throw CommandError(text_of("eval: logits of %d x %d, where %d x %d were announced", rows_now, columns_now,
                                       n_rows, n_columns));
        begin(size_t(n_rows), size_t(n_columns));
        for (int32_t i = 0; i < n_rows; i++) sink(logits.data() + size_t(i) * size_t(n_columns));
    }

private:
    void open(int32_t n_ctx) {
        close();
        check(init_context_(&ctx_, model_.c_str(), n_ctx, 0, error_, error_bytes), "init_context");
        if (ctx_ == nullptr) throw CommandError("init_context: 0 returned, but no context");
    }
    void close() {
        if (ctx_ != nullptr) free_context_(ctx_);
        ctx_ = nullptr;
    }
    void check(int status, const char *what) {
        error_[error_bytes - 1] = '\0';
        if (status != 0) throw CommandError(text_of("%s: %s", what, error_[0] ? error_ : "failed without a reason"));
        error_[0] = '\0';
    }

    DynamicLibrary library_;
    std::string model_;
    bool has_context_ = false;
    void *ctx_ = nullptr;
    char error_[error_bytes] = {};
    crossval_tokenize_t *tokenize_ = nullptr;
    crossval_eval_t *eval_ = nullptr;
    init_context_t *init_context_ = nullptr;
    free_context_t *free_context_ = nullptr;
    tokenize_with_context_t *tokenize_with_context_ = nullptr;
    eval_with_context_t *eval_with_context_ = nullptr;
};

}  // namespace

std::unique_ptr<Source> start_crossval_library(const SourceOptions &options, const std::string &path) {
    const std::string model = model_file(options);
    return make_peer(options, "crossval:" + path, [&](int in, int out) {
        return serve(in, out, [&] { return std::make_unique<CrossvalEngine>(model, path); });
    });
}

}  // namespace bitnet::crossval
