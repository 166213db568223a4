#include "core/threads.h"

#include "core/cpu.h"

namespace bitnet {

static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// A task follows the last one within microseconds while a token is computed: look for it that long before sleeping.
static constexpr int spins_before_sleep = 4000;

// A process that may run on one processor only must not spin: the thread it waits for needs that processor.
ThreadPool::ThreadPool(int n_threads)
    : n_threads_(n_threads), spins_(n_threads <= processor_count() ? spins_before_sleep : 0) {
    workers_.reserve(size_t(n_threads - 1));
    try {
        for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (...) {
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    quit_ = true;
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
    for (std::thread &worker : workers_) worker.join();
}

void ThreadPool::start(Task task, const void *body) {
    task_ = task;
    body_ = body;
    pending_.store(n_threads_ - 1, std::memory_order_relaxed);
    round_.fetch_add(1, std::memory_order_release);  // publishes task_, body_ and pending_
    round_.notify_all();
    task(body, 0, n_threads_);
    for (int i = 0; i < spins_ && pending_.load(std::memory_order_acquire) != 0; ++i) pause();
    for (int32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;) pending_.wait(left);
}

void ThreadPool::work(int thread) {
    for (uint32_t seen = 0;; ++seen) {
        for (int i = 0; i < spins_ && round_.load(std::memory_order_acquire) == seen; ++i) pause();
        round_.wait(seen, std::memory_order_acquire);
        if (quit_) return;
        task_(body_, thread, n_threads_);
        if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_all();
    }
}

}  // namespace bitnet
