// Models, vocabularies and tokens.
#include <climits>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <string>

#include "abi/llama/objects.h"

namespace bitnet {

static std::mutex log_mutex;
static ggml_log_callback log_function = nullptr;
static void *log_user = nullptr;

void log_failure(const char *function, const char *text) {
    char line[1200];
    std::snprintf(line, sizeof line, "%s: %s\n", function, text);
    const std::lock_guard lock(log_mutex);
    if (log_function)
        log_function(GGML_LOG_LEVEL_ERROR, line, log_user);
    else
        std::fputs(line, stderr);
}

}  // namespace bitnet

using namespace bitnet;

// A header of the old generation gives the model as the vocabulary.
static const llama_model &model_of(const void *vocabulary) { return *static_cast<const llama_model *>(vocabulary); }

static bitnet_model_info_t info_of(const llama_model *model) {
    bitnet_model_info_t info{};
    info.struct_size = sizeof info;
    if (model) bitnet_model_get_info(model->bitnet, &info);
    return info;
}

static std::string system_info() {
    std::string text = "bitnet-c ";
    text += bitnet_version();
    for (int32_t i = 0; i < bitnet_isa_count(); ++i)
        text += std::string(" | ") + bitnet_isa_name(i) + " = " + (bitnet_isa_usable(i) ? "1" : "0");
    return text;
}

extern "C" {

void llama_backend_init(void) {}
void llama_backend_free(void) {}

const char *llama_print_system_info(void) {
    try {
        static const std::string text = system_info();
        return text.c_str();
    } catch (...) {
        return "bitnet-c";
    }
}

void llama_log_set(ggml_log_callback log_callback, void *user_data) {
    const std::lock_guard lock(log_mutex);
    log_function = log_callback;
    log_user = user_data;
}

llama_model_params llama_model_default_params(void) {
    llama_model_params params{};
    params.use_mmap = true;
    return params;
}

llama_model *llama_load_model_from_file(const char *path_model, llama_model_params params) {
    bitnet_load_params_t load{};
    load.struct_size = sizeof load;
    load.flags = params.use_mmap ? 0 : BITNET_LOAD_COPY;
    bitnet_model_t *handle = nullptr;
    if (bitnet_load(path_model, &load, &handle) == BITNET_OK) {
        if (llama_model *model = new (std::nothrow) llama_model(handle)) return model;
        bitnet_model_free(handle);
        log_failure("llama_load_model_from_file", "out of memory");
        return nullptr;
    }
    log_failure("llama_load_model_from_file");
    return nullptr;
}

llama_model *llama_model_load_from_file(const char *path_model, llama_model_params params) {
    return llama_load_model_from_file(path_model, params);
}

void llama_free_model(llama_model *model) {
    if (model) model->release();
}
void llama_model_free(llama_model *model) { llama_free_model(model); }

const llama_vocab *llama_model_get_vocab(const llama_model *model) {
    return reinterpret_cast<const llama_vocab *>(model);
}

int32_t llama_n_ctx_train(const llama_model *model) { return info_of(model).n_ctx_train; }
int32_t llama_n_embd(const llama_model *model) { return info_of(model).n_embd; }

int32_t llama_n_vocab(const llama_vocabulary *vocab) { return vocab ? info_of(&model_of(vocab)).n_vocab : 0; }
int32_t llama_vocab_n_tokens(const llama_vocab *vocab) { return vocab ? info_of(&model_of(vocab)).n_vocab : 0; }

const char *llama_vocab_get_text(const llama_vocab *vocab, llama_token token) {
    return vocab ? bitnet_token_text(model_of(vocab).bitnet, token) : nullptr;
}
const char *llama_token_get_text(const llama_vocabulary *vocab, llama_token token) {
    return vocab ? bitnet_token_text(model_of(vocab).bitnet, token) : nullptr;
}

llama_token llama_vocab_bos(const llama_vocab *vocab) {
    return vocab ? bitnet_token_special(model_of(vocab).bitnet, BITNET_SPECIAL_BOS) : -1;
}
llama_token llama_vocab_eos(const llama_vocab *vocab) {
    return vocab ? bitnet_token_special(model_of(vocab).bitnet, BITNET_SPECIAL_EOS) : -1;
}
llama_token llama_token_bos(const llama_vocabulary *vocab) {
    return llama_vocab_bos(reinterpret_cast<const llama_vocab *>(vocab));
}
llama_token llama_token_eos(const llama_vocabulary *vocab) {
    return llama_vocab_eos(reinterpret_cast<const llama_vocab *>(vocab));
}

int32_t llama_tokenize(const llama_vocabulary *vocab, const char *text, int32_t text_len, llama_token *tokens,
                       int32_t n_tokens_max, bool add_special, bool parse_special) {
    if (!vocab || (!text && text_len != 0)) {
        log_failure("llama_tokenize", "vocab or text is NULL");
        return INT32_MIN;
    }
    const bitnet_model_t *model = model_of(vocab).bitnet;
    const uint32_t flags = (add_special && bitnet_token_wants_bos(model) ? BITNET_TOKENIZE_ADD_BOS : 0) |
                           (parse_special ? BITNET_TOKENIZE_PARSE_SPECIAL : 0);
    const bool size_alone = !tokens || n_tokens_max == 0;
    size_t n = n_tokens_max > 0 ? size_t(n_tokens_max) : 0;
    const bitnet_status_t status = bitnet_tokenize_text(model, text, text_len < 0 ? SIZE_MAX : size_t(text_len), flags,
                                                        size_alone ? nullptr : tokens, &n);
    if (n > size_t(INT32_MAX) || (status != BITNET_OK && status != BITNET_E_BUFFER)) {
        log_failure("llama_tokenize");
        return INT32_MIN;
    }
    return status == BITNET_OK ? int32_t(n) : -int32_t(n);
}

}  // extern "C"
