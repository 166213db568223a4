#include "core/state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace bitnet {

void *allocate(size_t n, size_t element_bytes, size_t alignment) {
    if (n > (SIZE_MAX - alignment) / element_bytes) throw std::bad_alloc();
    const size_t bytes = (n * element_bytes + alignment - 1) / alignment * alignment;
    void *p = std::aligned_alloc(alignment, bytes);
    if (!p) throw std::bad_alloc();
    if (alignment == huge_page) madvise(p, bytes, MADV_HUGEPAGE);  // a wish: refused where the system has none
    return p;
}

static size_t widest(const Hyperparameters &hp) { return size_t(std::max({hp.n_embd, hp.n_q(), hp.n_ff})); }

static size_t kv_bytes(const Hyperparameters &hp, const StateConfig &config) {
    const int block = kv_block(config.n_ctx), n_blocks = (config.n_ctx + block - 1) / block;
    return size_t(n_blocks) * size_t(block) * size_t(hp.n_layer) * 2 * size_t(hp.n_kv()) *
           (config.kv == KvType::f32 ? 4 : 2);
}

State::State(std::shared_ptr<const Model> m, const Kernels &table, const StateConfig &c)
    : model(std::move(m)), kernels(table), config(c), pool(c.n_threads) {
    const Hyperparameters &hp = model->hp;
    const size_t rows = size_t(config.n_batch), threads = size_t(config.n_threads);
    h = Buffer<float>(rows * size_t(hp.n_embd));
    normed = Buffer<float>(rows * widest(hp));
    codes = Buffer<int8_t>(rows * widest(hp));
    code_scale = Buffer<float>(rows);
    code_sum = Buffer<int32_t>(rows);
    const size_t n_q = size_t(hp.n_q()), n_kv = size_t(hp.n_kv());
    gate = Buffer<float>(rows * std::max({size_t(hp.n_ff), n_q + n_kv, size_t(hp.n_embd)}));
    up = Buffer<float>(rows * std::max(size_t(hp.n_ff), n_q + n_kv));
    q = View<float>(gate.data());
    k = View<float>(gate.data() + rows * n_q);
    attended = View<float>(up.data());
    v = View<float>(up.data() + rows * n_q);
    branch = View<float>(gate.data());
    rope_cos = Buffer<float>(rows * size_t(hp.n_rot) / 2);
    rope_sin = Buffer<float>(rows * size_t(hp.n_rot) / 2);
    scores = Buffer<float>(
        std::max(threads * attention_scratch(hp, config.n_ctx), size_t(hp.n_head) * size_t(config.n_ctx)));
    unpacked = Buffer<uint8_t>(threads * ternary_scratch(kernels, int(widest(hp))));
    kv_ = Buffer<uint8_t>::huge(kv_bytes(hp, config));
    reserve_outputs(1);
}

void State::reserve_outputs(size_t n_rows) {
    const size_t n_vocab = size_t(model->hp.n_vocab), n_embd = size_t(model->hp.n_embd);
    if (logits.size() < n_rows * n_vocab) logits = Buffer<float>(n_rows * n_vocab);
    if (hidden.size() < n_rows * n_embd) hidden = Buffer<float>(n_rows * n_embd);
}

size_t State::packed_kv_bytes(int n_positions) const {
    return size_t(model->hp.n_layer) * 2 * size_t(model->hp.n_kv()) * size_t(n_positions) * kv_element_bytes();
}

// copy(offset in the cache, offset in the packed form, bytes) for each run of positions of one block.
template <class Copy> void State::each_kv_run(int n_positions, const Copy &copy) const {
    const Hyperparameters &hp = model->hp;
    const size_t row = size_t(hp.head_dim) * kv_element_bytes();
    const int block = kv_block(config.n_ctx);
    size_t packed = 0;
    for (int layer = 0; layer < hp.n_layer; ++layer)
        for (Kv which : {Kv::key, Kv::value})
            for (int head = 0; head < hp.n_head_kv; ++head)
                for (int begin = 0; begin < n_positions; begin += block) {
                    const size_t n = size_t(std::min(block, n_positions - begin)) * row;
                    copy(kv_at(layer, which, head, begin) * kv_element_bytes(), packed, n);
                    packed += n;
                }
}

void State::pack_kv(int n_positions, uint8_t *out) const {
    each_kv_run(n_positions,
                [&](size_t at, size_t packed, size_t n) { std::memcpy(out + packed, kv_.data() + at, n); });
}

void State::unpack_kv(int n_positions, const uint8_t *in) {
    each_kv_run(n_positions, [&](size_t at, size_t packed, size_t n) { std::memcpy(kv_.data() + at, in + packed, n); });
}

void State::copy_kv(const State &from, int n_positions) {
    each_kv_run(n_positions,
                [&](size_t at, size_t, size_t n) { std::memcpy(kv_.data() + at, from.kv_.data() + at, n); });
}

size_t State::bytes() const {
    return h.bytes() + normed.bytes() + codes.bytes() + code_scale.bytes() + code_sum.bytes() + gate.bytes() +
           up.bytes() + rope_cos.bytes() + rope_sin.bytes() + scores.bytes() + unpacked.bytes() + logits.bytes() +
           hidden.bytes() + bounds.bytes() + kv_.bytes();
}

}  // namespace bitnet
