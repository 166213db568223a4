// A small pool. No result depends on which thread did what.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace bitnet {

class ThreadPool {
public:
    explicit ThreadPool(int n_threads);  // the caller is one of them; throws std::system_error
    ~ThreadPool();
    ThreadPool(const ThreadPool &) = delete;
    ThreadPool &operator=(const ThreadPool &) = delete;

    int size() const { return n_threads_; }

    // Runs body(thread, n_threads) on every thread and returns when all are done. The body must not throw.
    template <class Body> void run(const Body &body) {
        if (n_threads_ == 1) return body(0, 1);
        start([](const void *b, int thread, int n) { (*static_cast<const Body *>(b))(thread, n); }, &body);
    }

    // Runs body(thread, begin, end) on consecutive parts of [0, n), cut at multiples of `grain`; on the caller alone
    // when there is only one.
    template <class Body> void split(int n, int grain, const Body &body) {
        if (n <= grain) return body(0, 0, n);
        run([&](int thread, int n_threads) {
            const int64_t blocks = (n + grain - 1) / grain;
            const int begin = int(blocks * thread / n_threads) * grain;
            const int end = int(blocks * (thread + 1) / n_threads) * grain;
            if (begin < n) body(thread, begin, end < n ? end : n);
        });
    }

    // Runs body(thread, unit) for each unit of [0, n), each on the thread that is free first. Which one that is must
    // not show in the results.
    template <class Body> void deal(int n, const Body &body) {
        std::atomic<int> next{0};
        run([&](int thread, int) {
            for (int unit; (unit = next.fetch_add(1, std::memory_order_relaxed)) < n;) body(thread, unit);
        });
    }

private:
    using Task = void (*)(const void *body, int thread, int n_threads);
    void start(Task task, const void *body);
    void stop();
    void work(int thread);

    const int n_threads_;
    const int spins_;  // turns a waiting thread takes before it sleeps; 0 when there are more threads than processors
    Task task_ = nullptr;
    const void *body_ = nullptr;
    bool quit_ = false;
    alignas(64) std::atomic<uint32_t> round_{0};   // grows by one for each task
    alignas(64) std::atomic<int32_t> pending_{0};  // workers that have not finished the current one
    std::vector<std::thread> workers_;
};

}  // namespace bitnet
