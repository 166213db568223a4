// bitnet_cpp.h, the first part: a model that generates.
#include "bitnet_cpp.h"

#include <algorithm>

#include "abi/boundary.h"
#include "abi/compat.h"

using namespace bitnet;

namespace {

std::vector<int32_t> prompt_tokens(const bitnet_model &model, const char *prompt) {
    const Tokenizer &tokenizer = model.loaded->model->tokenizer;
    std::vector<int32_t> tokens = tokenizer.encode(prompt, tokenizer.wants_bos(), false);
    if (tokens.empty()) fail(Status::invalid, "the prompt gives no token");
    return tokens;
}

// Greedy; returns the number of tokens.
size_t generate(const bitnet_model &model, const char *prompt, int max_tokens, int32_t *out) {
    const std::vector<int32_t> tokens = prompt_tokens(model, prompt);
    bitnet_context_params_t size{};
    size.struct_size = sizeof size;
    size.n_ctx = int32_t(std::min(tokens.size() + size_t(max_tokens), size_t(INT32_MAX)));
    bitnet_ctx_t *handle = nullptr;
    check(bitnet_context_create(&model, &size, &handle));
    const std::unique_ptr<bitnet_ctx_t, void (*)(bitnet_ctx_t *)> ctx(handle, bitnet_context_free);
    check(bitnet_eval_tokens(ctx.get(), tokens.data(), tokens.size(), nullptr));
    size_t n = size_t(max_tokens);
    check(bitnet_generate(ctx.get(), nullptr, out, &n));
    return n;
}

}  // namespace

extern "C" {

void *bitnet_cpp_create_model(const char *model_path) {
    bitnet_model_t *model = nullptr;
    bitnet_load(model_path, nullptr, &model);
    return model;
}

void bitnet_cpp_destroy_model(void *model) { bitnet_model_free(static_cast<bitnet_model_t *>(model)); }

int bitnet_cpp_generate(void *model, const char *prompt, int max_tokens, uint32_t *tokens_out, int *tokens_count) {
    if (tokens_count) *tokens_count = 0;
    return guarded("bitnet_cpp_generate",
                   [&] {
                       require(model, "model");
                       require(prompt, "prompt");
                       require(tokens_out, "tokens_out");
                       require(tokens_count, "tokens_count");
                       require_positive(max_tokens, "max_tokens");
                       std::vector<int32_t> tokens(static_cast<size_t>(max_tokens));
                       const size_t n =
                           generate(*static_cast<const bitnet_model_t *>(model), prompt, max_tokens, tokens.data());
                       std::memcpy(tokens_out, tokens.data(), n * sizeof(uint32_t));
                       *tokens_count = int(n);
                   }) == BITNET_OK
               ? 0
               : -1;
}

}  // extern "C"
