// What a context owns: KV cache, scratch, kept logits, threads. All allocated once, but for logits of several rows.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "core/kernels/dense.h"
#include "core/kernels/kernels.h"
#include "core/threads.h"
#include "core/trace.h"
#include "model/model.h"

namespace bitnet {

class DenseWeights;

// 64-byte aligned, uninitialised: pages that are never written cost no memory. Huge: on 2 MB pages where the system has
// them, for what is read from memory again and again.
constexpr size_t huge_page = size_t(2) << 20;
void *allocate(size_t n, size_t element_bytes, size_t alignment);  // throws std::bad_alloc

template <class T> class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t n) : data_(static_cast<T *>(allocate(n, sizeof(T), 64))), n_(n) {}
    static Buffer huge(size_t n) {
        Buffer buffer;
        buffer.data_.reset(static_cast<T *>(allocate(n, sizeof(T), huge_page)));
        buffer.n_ = n;
        return buffer;
    }
    T *data() { return data_.get(); }
    const T *data() const { return data_.get(); }
    size_t size() const { return n_; }
    size_t bytes() const { return n_ * sizeof(T); }

private:
    struct Free {
        void operator()(T *p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
    size_t n_ = 0;
};

// Part of a Buffer.
template <class T> class View {
public:
    View() = default;
    explicit View(T *data) : data_(data) {}
    T *data() { return data_; }
    const T *data() const { return data_; }

private:
    T *data_ = nullptr;
};

struct StateConfig {
    int n_ctx;
    int n_threads;
    int n_batch;
    KvType kv;
};

// The cache grows by blocks of positions, all layers of a block side by side, so that memory is touched from its
// beginning and huge pages are filled before the next is begun: (n_blocks, n_layer, key or value, n_head_kv,
// kv_block(n_ctx), head_dim), f32 or f16. Short blocks cost less memory at the beginning of a context, long ones are
// read faster, since fewer of their ends interrupt the order of memory (core/DESIGN.md).
constexpr int kv_tile = 64;  // positions that attention works on at a time; blocks are whole tiles
constexpr int kv_block(int n_ctx) {
    return n_ctx < 4 * kv_tile ? (n_ctx + kv_tile - 1) / kv_tile * kv_tile : 4 * kv_tile;
}
enum class Kv { key = 0, value = 1 };

// Queries, rows times heads that share a key/value head, that attend together; and the floats that takes: their scores,
// themselves and their outputs.
inline int attention_queries(const Hyperparameters &hp) {
    const int n_rep = hp.n_head / hp.n_head_kv;
    return n_rep > 32 ? n_rep : 32 / n_rep * n_rep;
}
// Floats from one query's scores to the next one's: an odd number of cache lines, so that rows do not share a cache
// set.
inline size_t scores_stride(int n_positions) { return ((size_t(n_positions) + 15) / 16 | 1) * 16; }
inline size_t attention_scratch(const Hyperparameters &hp, int n_ctx) {
    return size_t(attention_queries(hp)) * (scores_stride(n_ctx) + 2 * size_t(hp.head_dim));
}

class State {
public:
    State(std::shared_ptr<const Model> model, const Kernels &kernels, const StateConfig &config);

    // Element of the cache where the row of position `at` begins; those of the later positions of its block follow.
    size_t kv_at(int layer, Kv which, int head, int at) const {
        const Hyperparameters &hp = model->hp;
        const int n = kv_block(config.n_ctx);
        const size_t part =
            ((size_t(at / n) * size_t(hp.n_layer) + size_t(layer)) * 2 + size_t(which)) * size_t(hp.n_head_kv);
        return ((part + size_t(head)) * size_t(n) + size_t(at % n)) * size_t(hp.head_dim);
    }
    template <class T> T *kv() { return reinterpret_cast<T *>(kv_.data()); }
    size_t kv_element_bytes() const { return config.kv == KvType::f32 ? 4 : 2; }
    size_t kv_allocated() const { return kv_.bytes(); }
    size_t bytes() const;                 // allocated
    void reserve_outputs(size_t n_rows);  // grows logits and hidden

    // The first n_positions of every cache, packed: (n_layer, 2, n_head_kv, n_positions, head_dim).
    size_t packed_kv_bytes(int n_positions) const;
    void pack_kv(int n_positions, uint8_t *out) const;
    void unpack_kv(int n_positions, const uint8_t *in);
    void copy_kv(const State &from, int n_positions);  // of the same model and KV type

    const std::shared_ptr<const Model> model;
    const Kernels &kernels;
    const StateConfig config;
    ThreadPool pool;
    Tracer *tracer = nullptr;  // null: nothing is traced
    // Weights to decode from, and the kernel for them; null: the file's.
    const DenseWeights *dense = nullptr;
    DenseRows dense_rows = nullptr;

    int position = 0;              // positions evaluated
    int n_outputs = 0;             // rows in logits and hidden
    bool coarse_head = false;      // which copy CompactHead::candidates() reads next
    bool logits_left_out = false;  // of the one kept row; complete_logits() makes up for it

    // Scratch for n_batch rows.
    Buffer<float> h;           // (n_batch, n_embd) residual stream
    Buffer<float> normed;      // (n_batch, max(n_embd, n_q, n_ff)) output of the latest norm
    Buffer<int8_t> codes;      // same shape: its int8 codes
    Buffer<float> code_scale;  // (n_batch)
    Buffer<int32_t> code_sum;  // (n_batch)
    // Attention and feed forward take turns with the same memory, and what a block adds to the residual is made when
    // its other tensors are no longer read.
    Buffer<float> gate;        // (n_batch, n_ff)
    Buffer<float> up;          // (n_batch, n_ff)
    View<float> q;             // (n_batch, n_q) in gate
    View<float> k;             // (n_batch, n_kv) in gate, after q
    View<float> attended;      // (n_batch, n_q) in up
    View<float> v;             // (n_batch, n_kv) in up, after attended
    View<float> branch;        // (n_batch, n_embd) in gate
    Buffer<float> rope_cos;    // (n_batch, n_rot / 2)
    Buffer<float> rope_sin;    // (n_batch, n_rot / 2)
    Buffer<float> scores;      // (n_threads, attention_scratch()), or (n_head, n_kv) for a single row
    Buffer<uint8_t> unpacked;  // (n_threads, ternary_scratch() of the longest row)

    // Kept outputs of the last eval.
    Buffer<float> logits;  // (n_outputs, n_vocab)
    Buffer<float> hidden;  // (n_outputs, n_embd) after the final norm
    Buffer<float> bounds;  // (n_vocab) of logits, made when the compact head is first used

private:
    template <class Copy> void each_kv_run(int n_positions, const Copy &copy) const;
    Buffer<uint8_t> kv_;
};

}  // namespace bitnet
