// The objects behind llama.h: handles of bitnet_c.h with what the other interface adds.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "bitnet_c.h"
#include "llama.h"

// Also the vocabulary: the generations of the header differ in the pointer's type alone.
struct llama_model {
    explicit llama_model(bitnet_model_t *m) : bitnet(m) {}
    ~llama_model() { bitnet_model_free(bitnet); }
    llama_model(const llama_model &) = delete;
    llama_model &operator=(const llama_model &) = delete;

    void acquire() { owners.fetch_add(1, std::memory_order_relaxed); }
    void release() {
        if (owners.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
    }

    bitnet_model_t *const bitnet;
    std::atomic<int> owners{1};  // its handle and its contexts: llama_get_model must stay good after llama_free_model
};

struct llama_context {
    llama_context(llama_model *m, bitnet_ctx_t *ctx) : model(m), bitnet(ctx) { model->acquire(); }
    ~llama_context() {
        bitnet_context_free(bitnet);
        model->release();
    }
    llama_context(const llama_context &) = delete;
    llama_context &operator=(const llama_context &) = delete;

    llama_model *const model;
    bitnet_ctx_t *const bitnet;
    bool logits_all = false;
    bool last_only = false;        // the evaluation kept the last row alone
    std::vector<int32_t> outputs;  // rows of the last batch whose logits were asked for, ascending
};

namespace bitnet {

void forget_outputs(llama_context &ctx);

// Tells of the last failure of bitnet_c.h; or of `text`.
void log_failure(const char *function, const char *text = bitnet_last_error());

}  // namespace bitnet
