// What every section of the boundary shares: the handles, the guard that turns exceptions into statuses, and the rules
// for structs and buffers that the public header states.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "abi/tracing.h"
#include "bitnet_c.h"
#include "core/compact_head.h"
#include "core/cpu.h"
#include "core/dense_weights.h"
#include "core/state.h"
#include "model/error.h"
#include "model/model.h"

namespace bitnet {

// Made by the first caller, shared by all contexts of a model.
template <class T> class SharedCopy {
public:
    // Safe from many threads. What `make` throws leaves nothing behind, and the next caller tries again.
    template <class Make> const T &get(const Make &make) const {
        const std::lock_guard lock(mutex_);
        if (!owner_) {
            const auto begin = std::chrono::steady_clock::now();
            owner_ = make();
            const std::chrono::nanoseconds took = std::chrono::steady_clock::now() - begin;
            build_ns_.store(uint64_t(took.count()), std::memory_order_relaxed);
            made_.store(owner_.get(), std::memory_order_release);
        }
        return *owner_;
    }
    const T *made() const { return made_.load(std::memory_order_acquire); }  // NULL: not yet
    uint64_t build_ns() const { return build_ns_.load(std::memory_order_relaxed); }

private:
    mutable std::mutex mutex_;
    mutable std::unique_ptr<const T> owner_;
    mutable std::atomic<const T *> made_{nullptr};
    mutable std::atomic<uint64_t> build_ns_{0};
};

// A model with what the boundary adds. Shared by its handle and its contexts.
struct LoadedModel {
    std::shared_ptr<const Model> model;
    const Kernels *kernels;
    std::string semantics_text;

    const std::string &hash() const;  // BLAKE3 of the file, computed once; safe from many threads
    // Second copies of weights, made when they are first asked for.
    SharedCopy<CompactHead> compact_head;
    SharedCopy<DenseWeights> dense_weights;

private:
    mutable std::once_flag hashed_;
    mutable std::string hash_;
};

}  // namespace bitnet

struct bitnet_model {
    std::shared_ptr<const bitnet::LoadedModel> loaded;
};

struct bitnet_ctx {
    bitnet_ctx(std::shared_ptr<const bitnet::LoadedModel> m, const bitnet::StateConfig &config)
        : loaded(std::move(m)), state(loaded->model, *loaded->kernels, config), tracing(*loaded, state) {}

    const std::shared_ptr<const bitnet::LoadedModel> loaded;
    bitnet::State state;
    std::vector<int32_t> history;  // token at each position; -1 where embeddings were given
    std::atomic<bool> busy{false};
    bitnet::Tracing tracing;
    bool certified = false;                                     // BITNET_HEAD_CERTIFIED, and this model and CPU can
    uint64_t n_certified = 0, n_full = 0, n_rows_computed = 0;  // bitnet_head_stats_t
};

namespace bitnet {

void log_line(int32_t level, const char *text) noexcept;

// Runs `body`; an exception becomes the status and the last error, prefixed by the function's name.
bitnet_status_t status_of(const char *function, std::exception_ptr error) noexcept;
template <class Body> bitnet_status_t guarded(const char *function, const Body &body) noexcept {
    try {
        body();
        return BITNET_OK;
    } catch (...) {
        return status_of(function, std::current_exception());
    }
}

template <class T> void require(const T *argument, const char *name) {
    if (!argument) fail(Status::invalid, "%s is NULL", name);
}

// Marks the context as in use; Error(busy) when it is already.
class Entry {
public:
    explicit Entry(bitnet_ctx *ctx) {
        require(ctx, "ctx");
        if (ctx->busy.exchange(true, std::memory_order_acquire))
            fail(Status::busy, "the context is in use by another thread or by the callback that calls");
        ctx_ = ctx;
    }
    ~Entry() { ctx_->busy.store(false, std::memory_order_release); }
    Entry(const Entry &) = delete;
    Entry &operator=(const Entry &) = delete;

private:
    bitnet_ctx *ctx_;
};

// No struct of any future version is larger: a size beyond is garbage and must not be read.
constexpr size_t struct_size_max = 4096;

// A copy of the caller's parameters as we know them; NULL is all defaults.
template <class T> T parameters(const T *given, const char *name) {
    T out{};
    out.struct_size = sizeof(T);
    if (!given) return out;
    const size_t size = given->struct_size;
    if (size < sizeof(T) || size > struct_size_max)
        fail(Status::abi, "%s->struct_size is %zu: expected %zu to %zu", name, size, sizeof(T), struct_size_max);
    const unsigned char *bytes = reinterpret_cast<const unsigned char *>(given);
    for (size_t i = sizeof(T); i < size; ++i)
        if (bytes[i])
            fail(Status::abi, "%s has a non-zero byte at %zu: this library knows %zu bytes", name, i, sizeof(T));
    std::memcpy(&out, given, sizeof(T));
    return out;
}

// Fills the caller's struct up to the size it states.
template <class T> void fill(T *out, T value, const char *name) {
    require(out, name);
    const uint32_t size = out->struct_size;
    if (size < sizeof(T) || size > struct_size_max)
        fail(Status::abi, "%s->struct_size is %u: expected %zu to %zu", name, size, sizeof(T), struct_size_max);
    value.struct_size = size;
    std::memcpy(out, &value, sizeof(T));
}

// The buffer rule: *n receives the need; too small writes nothing.
template <class T> void copy_out(const T *data, size_t need, T *out, size_t *n) {
    require(n, "n");
    const size_t capacity = *n;
    *n = need;
    if (!out) return;
    if (capacity < need) fail(Status::buffer, "the buffer holds %zu: expected at least %zu", capacity, need);
    if (need) std::memcpy(out, data, need * sizeof(T));
}
inline void copy_out(const std::string &text, char *out, size_t *n) { copy_out(text.c_str(), text.size() + 1, out, n); }

}  // namespace bitnet
