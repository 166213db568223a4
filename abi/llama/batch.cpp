// Batches: one block of memory each, so that a freed batch cannot take foreign pointers along.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#define BITNET_AVAILABLE  // the new llama_batch_get_one by its name, the old one by its symbol's
#include "llama.h"

namespace {

// The blocks that live, by the address that batches carry in `pos`: a second free finds none.
std::mutex blocks_mutex;
std::vector<llama_pos *> blocks;

constexpr size_t alignment = 16;
size_t aligned(size_t n_bytes) { return (n_bytes + alignment - 1) / alignment * alignment; }

llama_batch arrays_of(unsigned char *block, size_t n, size_t n_embd, size_t n_seq_max) {
    llama_batch batch{};
    const auto take = [&block](size_t n_bytes) {
        unsigned char *const at = block;
        block += aligned(n_bytes);
        return static_cast<void *>(at);
    };
    batch.pos = static_cast<llama_pos *>(take(n * sizeof(llama_pos)));
    if (n_embd > 0)
        batch.embd = static_cast<float *>(take(n * n_embd * sizeof(float)));
    else
        batch.token = static_cast<llama_token *>(take(n * sizeof(llama_token)));
    batch.n_seq_id = static_cast<int32_t *>(take(n * sizeof(int32_t)));
    batch.seq_id = static_cast<llama_seq_id **>(take((n + 1) * sizeof(llama_seq_id *)));
    auto *const sequences = static_cast<llama_seq_id *>(take(n * n_seq_max * sizeof(llama_seq_id)));
    for (size_t i = 0; i < n; ++i) batch.seq_id[i] = sequences + i * n_seq_max;
    batch.logits = static_cast<int8_t *>(take(n));
    return batch;
}

size_t block_bytes(size_t n, size_t n_embd, size_t n_seq_max) {
    return aligned(n * sizeof(llama_pos)) + aligned(n * (n_embd ? n_embd : 1) * sizeof(float)) +
           aligned(n * sizeof(int32_t)) + aligned((n + 1) * sizeof(llama_seq_id *)) +
           aligned(n * n_seq_max * sizeof(llama_seq_id)) + aligned(n);
}

}  // namespace

extern "C" {

llama_batch llama_batch_init(int32_t n_tokens, int32_t embd, int32_t n_seq_max) {
    if (n_tokens < 1 || embd < 0) return {};
    const size_t n = size_t(n_tokens), n_embd = size_t(embd), sequences = size_t(std::max(n_seq_max, 1));
    auto *const block = static_cast<unsigned char *>(std::calloc(1, block_bytes(n, n_embd, sequences)));
    if (!block) return {};
    const llama_batch batch = arrays_of(block, n, n_embd, sequences);
    try {
        const std::lock_guard lock(blocks_mutex);
        blocks.push_back(batch.pos);
    } catch (...) {
        std::free(block);
        return {};
    }
    return batch;
}

void llama_batch_free(llama_batch batch) {
    const std::lock_guard lock(blocks_mutex);
    const auto found = std::find(blocks.begin(), blocks.end(), batch.pos);
    if (found == blocks.end()) return;
    std::free(*found);
    blocks.erase(found);
}

llama_batch llama_batch_get_one(llama_token *tokens, int32_t n_tokens) {
    llama_batch batch{};
    batch.n_tokens = n_tokens;
    batch.token = tokens;
    return batch;
}

// The old generation's llama_batch_get_one.
LLAMA_API llama_batch llama_batch_get_one_at(llama_token *tokens, int32_t n_tokens, llama_pos pos_0,
                                             llama_seq_id seq_id) {
    if (seq_id != 0) return {};
    try {
        static thread_local std::vector<llama_pos> positions;
        positions.resize(size_t(std::max(n_tokens, 0)));
        for (size_t i = 0; i < positions.size(); ++i) positions[i] = pos_0 + llama_pos(i);
        llama_batch batch = llama_batch_get_one(tokens, n_tokens);
        batch.pos = positions.data();
        return batch;
    } catch (...) {
        return {};
    }
}

}  // extern "C"
