// A model and a context for a command, made from its options.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bitnet_c.h"

namespace CLI {
class App;
}

namespace bitnet {

// Throws CommandError with the library's own line when `status` is a failure.
void check(bitnet_status_t status);

struct ModelOptions {
    std::string path;  // "": the embedded demo model
    std::string isa;
    std::string profile;
    std::vector<std::string> as;  // semantics, in order
    bool copy = false;            // into memory, not mapped

    void add_path_to(CLI::App &command);  // -m alone
    void add_to(CLI::App &command);
    std::string semantics() const;  // joined by commas, the profile first
};

struct ContextOptions {
    int n_threads = 0;    // 0: every processor this process may run on
    int n_ctx = 0;        // 0: what the model was trained for
    std::string kv;       // "": what the semantics say
    std::string head;     // "" or "full", or "certified"
    std::string weights;  // "" or "in-place", or "dense"

    void add_to(CLI::App &command);
    void add_threads_and_kv_to(CLI::App &command);  // of contexts whose size is known
    void add_decoding_to(CLI::App &command);
};

using ModelHandle = std::unique_ptr<bitnet_model_t, decltype(&bitnet_model_free)>;
using ContextHandle = std::unique_ptr<bitnet_ctx_t, decltype(&bitnet_context_free)>;

ModelHandle load_model(const ModelOptions &options);
ContextHandle create_context(const bitnet_model_t *model, const ContextOptions &options);

// The number of threads a context made with these options has.
int thread_count(const ContextOptions &options);
bitnet_model_info_t model_info(const bitnet_model_t *model);
std::string model_hash(const bitnet_model_t *model);

// Token ids of `bytes`; `flags`: BITNET_TOKENIZE_...
std::vector<int32_t> tokenize(const bitnet_model_t *model, const std::string &bytes, uint32_t flags);
// Bytes of `tokens`; `flags`: BITNET_DETOKENIZE_...
std::string detokenize(const bitnet_model_t *model, const std::vector<int32_t> &tokens, uint32_t flags);

// Evaluates the prompt, with progress on a terminal; the logits of its last token are kept.
void prefill(bitnet_ctx_t *ctx, const std::vector<int32_t> &tokens, int n_layer);

// Value of an environment variable; "" when it is not set.
std::string environment(const char *name);

}  // namespace bitnet
