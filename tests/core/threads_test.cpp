#include "core/threads.h"

#include <gtest/gtest.h>

#include <set>

namespace bitnet {
namespace {

TEST(ThreadPool, SplitCoversEveryElementOnce) {
    for (int n_threads : {1, 2, 3, 7}) {
        ThreadPool pool(n_threads);
        for (int n : {1, 2, 5, 16, 63, 1000})
            for (int grain : {1, 4, 32}) {
                std::vector<std::atomic<int>> seen(static_cast<size_t>(n));
                pool.split(n, grain, [&](int thread, int begin, int end) {
                    EXPECT_LT(thread, n_threads);
                    EXPECT_EQ(begin % grain, 0);
                    for (int i = begin; i < end; ++i) seen[size_t(i)].fetch_add(1);
                });
                for (int i = 0; i < n; ++i) ASSERT_EQ(seen[size_t(i)].load(), 1) << n << " " << grain << " " << i;
            }
    }
}

// What one round wrote, the next one reads: the barrier orders memory. TSan watches.
TEST(ThreadPool, RoundsAreOrdered) {
    ThreadPool pool(3);
    std::vector<int> values(3, 0), copies(3, 0);
    for (int round = 1; round <= 20000; ++round) {
        pool.run([&](int thread, int) { values[size_t(thread)] = round; });
        pool.run([&](int thread, int n) { copies[size_t(thread)] = values[size_t((thread + 1) % n)]; });
        ASSERT_EQ(copies, std::vector<int>(3, round));
    }
}

TEST(ThreadPool, ManyPoolsComeAndGo) {
    for (int i = 0; i < 200; ++i) {
        ThreadPool pool(1 + i % 8);
        std::atomic<int> sum{0};
        if (i % 3) pool.run([&](int, int) { sum.fetch_add(1); });
        EXPECT_EQ(sum.load(), i % 3 ? 1 + i % 8 : 0);
    }
}

}  // namespace
}  // namespace bitnet
