// Section 6 of the header: tokens.
#include "abi/boundary.h"

using namespace bitnet;

static const Tokenizer &tokenizer_of(const bitnet_model_t *model) { return model->loaded->model->tokenizer; }

static bool in_vocabulary(const bitnet_model_t *model, int32_t token) {
    return model && token >= 0 && token < tokenizer_of(model).n_tokens();
}

extern "C" {

bitnet_status_t bitnet_tokenize_text(const bitnet_model_t *model, const char *text, size_t n_bytes, uint32_t flags,
                                     int32_t *out, size_t *n) {
    return guarded("bitnet_tokenize_text", [&] {
        require(model, "model");
        require(n, "n");
        if (n_bytes > 0) require(text, "text");
        if (flags & ~(BITNET_TOKENIZE_ADD_BOS | BITNET_TOKENIZE_PARSE_SPECIAL))
            fail(Status::invalid, "flags is 0x%x: expected BITNET_TOKENIZE_... flags", flags);
        const size_t size = n_bytes == SIZE_MAX ? std::strlen(text) : n_bytes;
        const std::vector<int32_t> tokens =
            tokenizer_of(model).encode({text ? text : "", size}, (flags & BITNET_TOKENIZE_ADD_BOS) != 0,
                                       (flags & BITNET_TOKENIZE_PARSE_SPECIAL) != 0);
        copy_out(tokens.data(), tokens.size(), out, n);
    });
}

// A byte is at most one token; BOS is one more.
size_t bitnet_tokenize_bound(size_t n_bytes) { return n_bytes < SIZE_MAX ? n_bytes + 1 : SIZE_MAX; }

bitnet_status_t bitnet_detokenize(const bitnet_model_t *model, const int32_t *tokens, size_t n_tokens, uint32_t flags,
                                  char *out, size_t *n) {
    return guarded("bitnet_detokenize", [&] {
        require(model, "model");
        require(n, "n");
        if (n_tokens > 0) require(tokens, "tokens");
        if (flags & ~BITNET_DETOKENIZE_SPECIAL)
            fail(Status::invalid, "flags is 0x%x: expected BITNET_DETOKENIZE_... flags", flags);
        copy_out(tokenizer_of(model).decode(tokens, n_tokens, (flags & BITNET_DETOKENIZE_SPECIAL) != 0), out, n);
    });
}

const char *bitnet_token_text(const bitnet_model_t *model, int32_t token) {
    return in_vocabulary(model, token) ? tokenizer_of(model).text(token) : nullptr;
}

int32_t bitnet_token_type(const bitnet_model_t *model, int32_t token) {
    return in_vocabulary(model, token) ? int32_t(tokenizer_of(model).type(token)) : 0;
}

float bitnet_token_score(const bitnet_model_t *model, int32_t token) {
    return in_vocabulary(model, token) ? tokenizer_of(model).score(token) : 0.0f;
}

int32_t bitnet_token_special(const bitnet_model_t *model, int32_t role) {
    if (!model) return -1;
    switch (role) {
    case BITNET_SPECIAL_BOS: return tokenizer_of(model).bos();
    case BITNET_SPECIAL_EOS: return tokenizer_of(model).eos();
    case BITNET_SPECIAL_EOT: return tokenizer_of(model).eot();
    case BITNET_SPECIAL_PAD: return tokenizer_of(model).pad();
    default: return -1;
    }
}

bitnet_status_t bitnet_token_end_ids(const bitnet_model_t *model, int32_t *out, size_t *n) {
    return guarded("bitnet_token_end_ids", [&] {
        require(model, "model");
        const std::vector<int32_t> &ids = tokenizer_of(model).end_ids();
        copy_out(ids.data(), ids.size(), out, n);
    });
}

int32_t bitnet_token_wants_bos(const bitnet_model_t *model) { return model && tokenizer_of(model).wants_bos(); }

const char *bitnet_chat_template(const bitnet_model_t *model) {
    return model ? tokenizer_of(model).chat_template().c_str() : nullptr;
}

}  // extern "C"
