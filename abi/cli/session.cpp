#include "abi/cli/session.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include <sched.h>

#include "abi/cli/demo_model.h"
#include "abi/cli/options.h"
#include "abi/cli/terminal.h"

namespace bitnet {

namespace {

constexpr int threads_max = 256;  // as the header says
constexpr size_t batch_rows = 256;

int32_t report_progress(void *user, uint64_t done, uint64_t total) {
    static_cast<Progress *>(user)->update(done, total);
    return 0;
}

struct PrefillProgress {
    Progress progress{"reading the prompt"};
    uint64_t done = 0;
    uint64_t total = 0;
};

int32_t count_layer(void *user) {
    auto *prefill = static_cast<PrefillProgress *>(user);
    prefill->progress.update(prefill->done++, prefill->total);
    return 0;
}

// The size, then the data, of a function with the library's (out, n) convention.
template <typename Item, typename Call> std::vector<Item> fetch(const Call &call) {
    size_t n = 0;
    check(call(nullptr, &n));
    std::vector<Item> items(n);
    // A vector may have no data of its own when empty, and NULL would ask for the size again: harmless, n stays 0.
    check(call(items.data(), &n));
    return items;
}

}  // namespace

void check(bitnet_status_t status) {
    if (status == BITNET_OK) return;
    // The library names its function first; a user of the program never called one.
    const std::string text = bitnet_last_error();
    const size_t name_end = text.find_first_not_of("abcdefghijklmnopqrstuvwxyz_0123456789");
    const bool has_name =
        text.starts_with("bitnet_") && name_end != std::string::npos && text.substr(name_end, 2) == ": ";
    throw CommandError(has_name ? text.substr(name_end + 2) : text);
}

void ModelOptions::add_path_to(CLI::App &command) {
    command.add_option("-m,--model", path, "GGUF file (default: the demo model inside this program)")
        ->type_name("FILE");
}

void ModelOptions::add_to(CLI::App &command) {
    add_path_to(command);
    command
        .add_option("--isa", isa, "Instruction set; results do not depend on it (default: BITNET_ISA, else the best)")
        ->type_name("NAME");
    command.add_flag("--copy", copy, "Read the model into memory instead of mapping it: loads slower, decodes faster");
    command.add_option("--profile", profile, "Compute as another engine does: the same as --as profile=NAME, first")
        ->type_name("NAME");
    command
        .add_option("--as", as, "Override semantics of the model: activation=silu,eps=1e-6 (repeatable, last one wins)")
        ->option_text("KEY=VALUE,...")
        ->allow_extra_args(false);
}

std::string ModelOptions::semantics() const {
    std::string joined = profile.empty() ? "" : "profile=" + profile;
    for (const std::string &item : as) joined += (joined.empty() ? "" : ",") + item;
    return joined;
}

void ContextOptions::add_to(CLI::App &command) {
    add_threads_and_kv_to(command);
    command.add_option("-c,--ctx", n_ctx, "Positions of the context (default: what the model was trained for)")
        ->type_name("N")
        ->check(whole_number_between(1, INT32_MAX));
}

void ContextOptions::add_threads_and_kv_to(CLI::App &command) {
    command.add_option("-t,--threads", n_threads, "Threads; results do not depend on them (default: all processors)")
        ->type_name("N")
        ->check(whole_number_between(1, threads_max));
    command.add_option("--kv", kv, "Type of the KV cache, f32 or f16 (default: what the semantics say)")
        ->type_name("TYPE")
        ->check(one_of({"f32", "f16"}));
}

void ContextOptions::add_decoding_to(CLI::App &command) {
    command
        .add_option(
            "--head", head,
            "full: read the whole output head for each token (default); certified: bound it by a compact copy and "
            "read what can win, the tokens are the same")
        ->type_name("HOW")
        ->check(one_of({"full", "certified"}));
    command
        .add_option("--weights", weights,
                    "in-place: decode from the file's weights (default); dense: from a second copy, a fifth smaller, "
                    "where this "
                    "CPU has AVX-512 VBMI; the results are the same")
        ->type_name("HOW")
        ->check(one_of({"in-place", "dense"}));
}

ModelHandle load_model(const ModelOptions &options) {
    const std::string semantics = options.semantics();
    Progress progress("loading the model");
    bitnet_load_params_t params = {};
    params.struct_size = sizeof(params);
    params.flags = options.copy ? BITNET_LOAD_COPY : 0;
    params.isa = options.isa.empty() ? nullptr : options.isa.c_str();
    params.semantics = semantics.empty() ? nullptr : semantics.c_str();
    params.progress = report_progress;
    params.progress_user = &progress;
    bitnet_model_t *model = nullptr;
    check(options.path.empty()
              ? bitnet_load_memory(demo_model_data(), demo_model_size(), demo_model_name, &params, &model)
              : bitnet_load(options.path.c_str(), &params, &model));
    return ModelHandle(model, bitnet_model_free);
}

// What plugins find, at once. Errors are not for here: they become the reason why the command fails.
static void print_finding(void *, int32_t level, const char *text) {
    if (level == BITNET_LOG_WARN) std::fprintf(stderr, "bitnet: %s\n", text);
}

ContextHandle create_context(const bitnet_model_t *model, const ContextOptions &options) {
    bitnet_set_log(print_finding, nullptr);  // not before: `inspect` tells what is to be said of the model
    bitnet_context_params_t params = {};
    params.struct_size = sizeof(params);
    params.n_ctx = options.n_ctx;
    params.n_threads = thread_count(options);
    params.kv_type = options.kv.empty() ? BITNET_KV_DEFAULT : options.kv == "f16" ? BITNET_KV_F16 : BITNET_KV_F32;
    params.head = options.head == "certified" ? BITNET_HEAD_CERTIFIED : BITNET_HEAD_FULL;
    params.weights = options.weights == "dense" ? BITNET_WEIGHTS_DENSE : BITNET_WEIGHTS_IN_PLACE;
    bitnet_ctx_t *ctx = nullptr;
    check(bitnet_context_create(model, &params, &ctx));
    return ContextHandle(ctx, bitnet_context_free);
}

int thread_count(const ContextOptions &options) {
    if (options.n_threads > 0) return options.n_threads;
    cpu_set_t set;
    const int allowed = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
    return std::clamp(allowed, 1, threads_max);
}

bitnet_model_info_t model_info(const bitnet_model_t *model) {
    bitnet_model_info_t info = {};
    info.struct_size = sizeof(info);
    check(bitnet_model_get_info(model, &info));
    return info;
}

std::string model_hash(const bitnet_model_t *model) {
    return fetch<char>([&](char *out, size_t *n) { return bitnet_model_hash(model, out, n); }).data();
}

std::vector<int32_t> tokenize(const bitnet_model_t *model, const std::string &bytes, uint32_t flags) {
    std::vector<int32_t> tokens(bitnet_tokenize_bound(bytes.size()));
    size_t n = tokens.size();
    check(bitnet_tokenize_text(model, bytes.data(), bytes.size(), flags, tokens.data(), &n));
    tokens.resize(n);
    return tokens;
}

std::string detokenize(const bitnet_model_t *model, const std::vector<int32_t> &tokens, uint32_t flags) {
    if (tokens.empty()) return "";
    const std::vector<char> bytes = fetch<char>(
        [&](char *out, size_t *n) { return bitnet_detokenize(model, tokens.data(), tokens.size(), flags, out, n); });
    return std::string(bytes.data(), bytes.size() - 1);
}

void prefill(bitnet_ctx_t *ctx, const std::vector<int32_t> &tokens, int n_layer) {
    PrefillProgress progress;
    progress.total = (tokens.size() + batch_rows - 1) / batch_rows * static_cast<uint64_t>(n_layer);
    bitnet_eval_params_t params = {};
    params.struct_size = sizeof(params);
    params.logits = BITNET_LOGITS_LAST;
    params.cancel = count_layer;
    params.cancel_user = &progress;
    check(bitnet_eval_tokens(ctx, tokens.data(), tokens.size(), &params));
}

std::string environment(const char *name) {
    const char *value = std::getenv(name);
    return value == nullptr ? "" : value;
}

}  // namespace bitnet
