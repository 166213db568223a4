#define BITNET_AVAILABLE
#include <llama.h>

#include <cstring>

#include "tests/abi/llama_test.h"

namespace bitnet_test {

std::string new_generation(const char *path, const char *text, const std::vector<int32_t> &tokens,
                           std::vector<int32_t> &text_tokens, std::vector<float> &logits) {
    llama_model *model = llama_load_model_from_file(path, llama_model_default_params());
    if (!model) return "load";
    const llama_vocab *vocab = llama_model_get_vocab(model);
    const int32_t length = int32_t(std::strlen(text)), n = llama_tokenize(vocab, text, length, nullptr, 0, true, false);
    if (n < 1) return "tokenize, size";
    text_tokens.resize(size_t(n));
    if (llama_tokenize(vocab, text, length, text_tokens.data(), n, true, false) != n) return "tokenize";
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 16;
    llama_context *ctx = llama_new_context_with_model(model, params);
    if (!ctx) return "context";
    llama_set_causal_attn(ctx, false);
    const int32_t n_vocab = llama_vocab_n_tokens(vocab);
    if (n_vocab != llama_n_vocab(vocab) || llama_vocab_eos(vocab) != llama_token_eos(vocab)) return "vocab";
    if (std::strcmp(llama_vocab_get_text(vocab, 7), llama_token_get_text(vocab, 7)) != 0) return "text";
    logits.clear();
    size_t done = 0;
    for (const size_t part :
         {tokens.size() / 2, tokens.size() - tokens.size() / 2}) {  // no positions: after the last one
        llama_batch batch = llama_batch_get_one(const_cast<int32_t *>(tokens.data() + done), int32_t(part));
        if (llama_decode(ctx, batch) != 0) return "decode";
        for (size_t i = 0; i < part; ++i) {
            const float *row = llama_get_logits_ith(ctx, int32_t(i));
            if (!row) return "logits";
            logits.insert(logits.end(), row, row + n_vocab);
        }
        done += part;
    }
    llama_memory_clear(llama_get_memory(ctx), true);
    if (llama_get_logits(ctx)) return "memory";
    if (llama_get_model(ctx) != model) return "model";
    llama_free(ctx);
    llama_model_free(model);
    return "";
}

}  // namespace bitnet_test
