// lib: another build of this very library, or whatever speaks its ABI.
#include <algorithm>
#include <memory>

#include "abi/cli/crossval/dynamic_library.h"
#include "abi/cli/crossval/peer.h"
#include "abi/cli/session.h"
#include "abi/cli/terminal.h"

namespace bitnet::crossval {

namespace {

constexpr size_t rows_per_request = 32;  // logits held in memory

// The functions that are used, with the prototypes of the header.
struct Functions {
    explicit Functions(const DynamicLibrary &library) {
#define FIND(name) library.find("bitnet_" #name, name)
        FIND(abi_version);
        FIND(version);
        FIND(last_error);
        FIND(load);
        FIND(model_free);
        FIND(model_get_info);
        FIND(tokenize_text);
        FIND(tokenize_bound);
        FIND(context_create);
        FIND(context_free);
        FIND(eval_tokens);
        FIND(get_logits_ith);
#undef FIND
    }
    decltype(bitnet_abi_version) *abi_version;
    decltype(bitnet_version) *version;
    decltype(bitnet_last_error) *last_error;
    decltype(bitnet_load) *load;
    decltype(bitnet_model_free) *model_free;
    decltype(bitnet_model_get_info) *model_get_info;
    decltype(bitnet_tokenize_text) *tokenize_text;
    decltype(bitnet_tokenize_bound) *tokenize_bound;
    decltype(bitnet_context_create) *context_create;
    decltype(bitnet_context_free) *context_free;
    decltype(bitnet_eval_tokens) *eval_tokens;
    decltype(bitnet_get_logits_ith) *get_logits_ith;
};

class LibraryEngine : public Engine {
public:
    LibraryEngine(const SourceOptions &options, const std::string &model, const std::string &path)
        : library_(path), call_(library_), n_threads_(options.n_threads) {
        const uint32_t abi = call_.abi_version();
        if (abi >> 16 != BITNET_ABI_MAJOR)
            throw CommandError(
                text_of("%s has ABI %u.%u, expected %d", path.c_str(), abi >> 16, abi & 0xFFFF, BITNET_ABI_MAJOR));
        bitnet_load_params_t params = {};
        params.struct_size = sizeof params;
        params.semantics = options.semantics.empty() ? nullptr : options.semantics.c_str();
        check(call_.load(model.c_str(), &params, &model_));
        bitnet_model_info_t info = {};
        info.struct_size = sizeof info;
        check(call_.model_get_info(model_, &info));
        n_vocab_ = size_t(info.n_vocab);
    }

    std::string name() const override { return std::string("bitnet-c ") + call_.version(); }

    Ids tokenize(const std::string &text, const TokenizeFlags &flags) override {
        Ids ids(call_.tokenize_bound(text.size()));
        size_t n = ids.size();
        check(call_.tokenize_text(model_, text.data(), text.size(),
                                  (flags.add_bos ? BITNET_TOKENIZE_ADD_BOS : 0) |
                                      (flags.parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0),
                                  ids.data(), &n));
        ids.resize(n);
        return ids;
    }

    void eval(const Ids &tokens, const std::function<void(size_t, size_t)> &begin,
              const std::function<void(const float *)> &sink) override {
        bitnet_context_params_t params = {};
        params.struct_size = sizeof params;
        params.n_ctx = int32_t(tokens.size());
        params.n_threads = n_threads_;
        bitnet_ctx_t *made = nullptr;
        check(call_.context_create(model_, &params, &made));
        const std::unique_ptr<bitnet_ctx_t, decltype(bitnet_context_free) *> ctx(made, call_.context_free);
        for (size_t at = 0; at < tokens.size(); at += rows_per_request) {
            const size_t n = std::min(rows_per_request, tokens.size() - at);
            bitnet_eval_params_t eval = {};
            eval.struct_size = sizeof eval;
            eval.logits = BITNET_LOGITS_ALL;
            check(call_.eval_tokens(ctx.get(), tokens.data() + at, n, &eval));
            if (at == 0) begin(tokens.size(), n_vocab_);  // nothing was wrong with the tokens
            for (size_t i = 0; i < n; i++) {
                const float *row = call_.get_logits_ith(ctx.get(), int32_t(i));
                if (row == nullptr) throw CommandError(call_.last_error());
                sink(row);
            }
        }
    }

private:
    void check(bitnet_status_t status) const {
        if (status != BITNET_OK) throw CommandError(call_.last_error());
    }

    DynamicLibrary library_;
    Functions call_;
    int n_threads_;
    bitnet_model_t *model_ = nullptr;
    size_t n_vocab_ = 0;
};

}  // namespace

std::unique_ptr<Source> start_library(const SourceOptions &options, const std::string &path) {
    const std::string model = model_file(options);
    return make_peer(options, "lib:" + path, [&](int in, int out) {
        return serve(in, out, [&] { return std::make_unique<LibraryEngine>(options, model, path); });
    });
}

}  // namespace bitnet::crossval
