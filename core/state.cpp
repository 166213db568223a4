#include "core/state.h"

#include <algorithm>
#include <cstring>

namespace bitnet {

static size_t widest(const Hyperparameters &hp) { return size_t(std::max({hp.n_embd, hp.n_q(), hp.n_ff})); }

static size_t kv_bytes(const Hyperparameters &hp, const StateConfig &config) {
    return size_t(hp.n_layer) * 2 * size_t(hp.n_kv()) * size_t(config.n_ctx) * (config.kv == KvType::f32 ? 4 : 2);
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
    q = Buffer<float>(rows * size_t(hp.n_q()));
    k = Buffer<float>(rows * size_t(hp.n_kv()));
    v = Buffer<float>(rows * size_t(hp.n_kv()));
    attended = Buffer<float>(rows * size_t(hp.n_q()));
    gate = Buffer<float>(rows * size_t(hp.n_ff));
    up = Buffer<float>(rows * size_t(hp.n_ff));
    branch = Buffer<float>(rows * size_t(hp.n_embd));
    rope_cos = Buffer<float>(rows * size_t(hp.n_rot) / 2);
    rope_sin = Buffer<float>(rows * size_t(hp.n_rot) / 2);
    scores = Buffer<float>(threads * size_t(config.n_ctx));
    unpacked = Buffer<uint8_t>(threads * ternary_scratch(int(widest(hp))));
    kv_ = Buffer<uint8_t>(kv_bytes(hp, config));
    reserve_outputs(1);
}

KvLayer State::kv_layer(int layer) {
    const size_t half = size_t(model->hp.n_kv()) * size_t(config.n_ctx) * kv_element_bytes();
    uint8_t *base = kv_.data() + size_t(layer) * 2 * half;
    return {base, base + half};
}

void State::reserve_outputs(size_t n_rows) {
    const size_t n_vocab = size_t(model->hp.n_vocab), n_embd = size_t(model->hp.n_embd);
    if (logits.size() < n_rows * n_vocab) logits = Buffer<float>(n_rows * n_vocab);
    if (hidden.size() < n_rows * n_embd) hidden = Buffer<float>(n_rows * n_embd);
}

size_t State::packed_kv_bytes(int n_positions) const {
    return size_t(model->hp.n_layer) * 2 * size_t(model->hp.n_kv()) * size_t(n_positions) * kv_element_bytes();
}

// copy(offset in the cache, offset in the packed form, bytes) for each consecutive run of positions.
template <class Copy> void State::each_kv_run(int n_positions, const Copy &copy) const {
    const size_t row = size_t(model->hp.head_dim) * kv_element_bytes();
    const size_t n_runs = size_t(model->hp.n_layer) * 2 * size_t(model->hp.n_head_kv);
    for (size_t i = 0; i < n_runs; ++i)
        copy(i * size_t(config.n_ctx) * row, i * size_t(n_positions) * row, size_t(n_positions) * row);
}

void State::pack_kv(int n_positions, uint8_t *out) const {
    each_kv_run(n_positions,
                [&](size_t at, size_t packed, size_t n) { std::memcpy(out + packed, kv_.data() + at, n); });
}

void State::unpack_kv(int n_positions, const uint8_t *in) {
    each_kv_run(n_positions, [&](size_t at, size_t packed, size_t n) { std::memcpy(kv_.data() + at, in + packed, n); });
}

void State::copy_kv(const State &from, int n_positions) {
    const size_t from_run = size_t(from.config.n_ctx) * size_t(model->hp.head_dim) * kv_element_bytes();
    const size_t to_run = size_t(config.n_ctx) * size_t(model->hp.head_dim) * kv_element_bytes();
    each_kv_run(n_positions, [&](size_t at, size_t, size_t n) {
        std::memcpy(kv_.data() + at, from.kv_.data() + at / to_run * from_run, n);
    });
}

size_t State::bytes() const {
    return h.bytes() + normed.bytes() + codes.bytes() + code_scale.bytes() + code_sum.bytes() + q.bytes() + k.bytes() +
           v.bytes() + attended.bytes() + gate.bytes() + up.bytes() + branch.bytes() + rope_cos.bytes() +
           rope_sin.bytes() + scores.bytes() + unpacked.bytes() + traced_scores.bytes() + logits.bytes() +
           hidden.bytes() + kv_.bytes();
}

}  // namespace bitnet
