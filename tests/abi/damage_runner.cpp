// Loads each of the given files through the public header and, where that works, evaluates three tokens. On stdout a
// line for each: name, flags, step, status, message. Its own process, so that a crash is seen as one.
#include <bitnet_c.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

// Everything a client may do with a model that loaded: no call may crash, whatever the file says.
void look(const bitnet_model_t *model) {
    for (size_t i = 0; i < bitnet_model_key_count(model); ++i) {
        size_t n = 0;
        if (!bitnet_model_key_name(model, i) || !bitnet_model_key_type(model, i)) std::abort();
        bitnet_model_key_text(model, i, 3, nullptr, &n);
    }
    for (size_t i = 0; i < bitnet_model_tensor_count(model); ++i) {
        bitnet_tensor_info_t info = {};
        info.struct_size = sizeof info;
        bitnet_model_tensor(model, i, &info);
    }
    for (size_t i = 0; i < bitnet_model_warning_count(model); ++i)
        if (!bitnet_model_warning(model, i)) std::abort();
    size_t n = 0;
    bitnet_tokenize_text(model, "What is 2+2?\n \xff", SIZE_MAX,
                         BITNET_TOKENIZE_ADD_BOS | BITNET_TOKENIZE_PARSE_SPECIAL, nullptr, &n);
    const int32_t tokens[] = {0, 1, 2};
    bitnet_detokenize(model, tokens, 3, BITNET_DETOKENIZE_SPECIAL, nullptr, &n);
}

bitnet_status_t use(const bitnet_model_t *model) {
    look(model);
    bitnet_context_params_t params = {};
    params.struct_size = sizeof params;
    params.n_ctx = 4;
    params.n_threads = 2;
    bitnet_ctx_t *ctx = nullptr;
    bitnet_status_t status = bitnet_context_create(model, &params, &ctx);
    if (status != BITNET_OK) return status;
    const int32_t tokens[] = {0, 1, 2};
    status = bitnet_eval_tokens(ctx, tokens, 3, nullptr);
    int32_t top = -1;
    if (status == BITNET_OK) status = bitnet_top_logits(ctx, -1, 1, &top, nullptr);
    bitnet_context_free(ctx);
    return status;
}

// `flags`: of bitnet_load, mapped or copied, with or without a check of the codes.
void run(const char *path, uint32_t flags) {
    bitnet_load_params_t params = {};
    params.struct_size = sizeof params;
    params.flags = flags;
    bitnet_model_t *model = nullptr;
    bitnet_status_t status = bitnet_load(path, &params, &model);
    const char *step = "load";
    if (status == BITNET_OK) {
        step = "use";
        status = use(model);
    }
    bitnet_model_free(model);
    const char *slash = std::strrchr(path, '/');
    std::printf("%s\t%" PRIu32 "\t%s\t%s\t%s\n", slash ? slash + 1 : path, flags, step, bitnet_status_name(status),
                status == BITNET_OK ? "" : bitnet_last_error());
    std::fflush(stdout);
}

}  // namespace

int main(int argc, char **argv) {
    for (int i = 1; i < argc; ++i)
        for (const uint32_t flags : {0u, BITNET_LOAD_COPY, BITNET_LOAD_UNCHECKED_CODES}) run(argv[i], flags);
    return 0;
}
