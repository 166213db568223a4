// What a context owns: KV cache, scratch, kept logits, threads. All allocated once, but for logits of several rows.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "core/kernels/kernels.h"
#include "core/threads.h"
#include "core/trace.h"
#include "model/model.h"

namespace bitnet {

// 64-byte aligned, uninitialised: pages that are never written cost no memory.
template <class T> class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t n) : data_(allocate(n)), n_(n) {}
    T *data() { return data_.get(); }
    const T *data() const { return data_.get(); }
    size_t size() const { return n_; }
    size_t bytes() const { return n_ * sizeof(T); }

private:
    struct Free {
        void operator()(T *p) const { std::free(p); }
    };
    static T *allocate(size_t n) {
        void *p = n <= (SIZE_MAX - 63) / sizeof(T) ? std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64) : nullptr;
        if (!p) throw std::bad_alloc();
        return static_cast<T *>(p);
    }
    std::unique_ptr<T, Free> data_;
    size_t n_ = 0;
};

struct StateConfig {
    int n_ctx;
    int n_threads;
    int n_batch;
    KvType kv;
};

// Rounded elements of one layer's keys and values: (n_head_kv, n_ctx, head_dim), f32 or f16.
struct KvLayer {
    void *k;
    void *v;
};

class State {
public:
    State(std::shared_ptr<const Model> model, const Kernels &kernels, const StateConfig &config);

    KvLayer kv_layer(int layer);
    size_t kv_element_bytes() const { return config.kv == KvType::f32 ? 4 : 2; }
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

    int position = 0;   // positions evaluated
    int n_outputs = 0;  // rows in logits and hidden

    // Scratch for n_batch rows.
    Buffer<float> h;           // (n_batch, n_embd) residual stream
    Buffer<float> normed;      // (n_batch, max(n_embd, n_q, n_ff)) output of the latest norm
    Buffer<int8_t> codes;      // same shape: its int8 codes
    Buffer<float> code_scale;  // (n_batch)
    Buffer<int32_t> code_sum;  // (n_batch)
    Buffer<float> q;           // (n_batch, n_q)
    Buffer<float> k;           // (n_batch, n_kv)
    Buffer<float> v;           // (n_batch, n_kv)
    Buffer<float> attended;    // (n_batch, n_q)
    Buffer<float> gate;        // (n_batch, n_ff)
    Buffer<float> up;          // (n_batch, n_ff)
    Buffer<float> branch;      // (n_batch, n_embd) what a block adds to the residual
    Buffer<float> rope_cos;    // (n_batch, n_rot / 2)
    Buffer<float> rope_sin;    // (n_batch, n_rot / 2)
    Buffer<float> scores;      // (n_threads, n_ctx) one head's attention weights a thread
    Buffer<uint8_t> unpacked;  // (n_threads, ternary_scratch(max n_in))

    Buffer<float> traced_scores;  // (n_head, n_ctx), made when attention weights are first traced

    // Kept outputs of the last eval.
    Buffer<float> logits;  // (n_outputs, n_vocab)
    Buffer<float> hidden;  // (n_outputs, n_embd) after the final norm

private:
    template <class Copy> void each_kv_run(int n_positions, const Copy &copy) const;
    Buffer<uint8_t> kv_;  // (n_layer, 2, n_head_kv, n_ctx, head_dim)
};

}  // namespace bitnet
