// The jsonl sink's writer: compression, back-pressure, failures, forks, what a process leaves behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <malloc.h>
#include <nlohmann/json.hpp>
#include <random>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <zstd.h>

#include "tests/plugins/fixture.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Host;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif
// In the child of a process with threads TSan's runtime refuses new ones, and ASan's may wait for a lock that a thread
// of the parent held.
constexpr bool kThreadsInChildren = !kSanitized;

const std::string kPlugin = std::string(PLUGIN_DIRECTORY) + "/libjsonl.so";

std::string bytes_of(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
}

// What can be had of a stream; `ended`: it has its end.
std::string decompress(const std::string &packed, bool *ended) {
    ZSTD_DCtx *zstd = ZSTD_createDCtx();
    ZSTD_inBuffer in = {packed.data(), packed.size(), 0};
    std::string out;
    std::vector<char> buffer(1 << 16);
    size_t left = 1;
    for (;;) {
        ZSTD_outBuffer to = {buffer.data(), buffer.size(), 0};
        left = ZSTD_decompressStream(zstd, &to, &in);
        EXPECT_FALSE(ZSTD_isError(left)) << ZSTD_getErrorName(left);
        out.append(buffer.data(), to.pos);
        if (ZSTD_isError(left) || left == 0 || (in.pos == in.size && to.pos < to.size)) break;
    }
    *ended = left == 0 && in.pos == in.size;
    ZSTD_freeDCtx(zstd);
    return out;
}

// Whole lines as strict JSON; what follows the last line end is left out.
std::vector<json> records_of(const std::string &text) {
    std::vector<json> records;
    for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
        records.push_back(json::parse(text.begin() + long(at), text.begin() + long(end), nullptr, false));
        EXPECT_FALSE(records.back().is_discarded()) << text.substr(at, end - at);
    }
    return records;
}

size_t entries_of(const char *folder) {
    return size_t(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

class JsonlWriter : public testing::Test {
protected:
    void SetUp() override {
        char name[] = "/tmp/bitnet-jsonl-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder = name;
    }
    void TearDown() override { fs::remove_all(folder); }

    static void load(Host &host, const std::string &config) {
        ASSERT_EQ(trace_host_load_plugin(host.host, kPlugin.c_str(), config.c_str(), host.error), BITNET_OK)
            << host.error;
    }
    static void step(Host &host, int position, uint32_t n_rows = 2) {
        std::vector<float> values(n_rows * 70);
        for (size_t i = 0; i < values.size(); ++i) values[i] = float(i + 1) / float(position + 3);
        trace_host_begin_step(host.host, position, nullptr, n_rows);
        host.tensor(BITNET_STAGE_ATTN_NORM, 1, position, values, n_rows);
        trace_host_end_step(host.host, BITNET_OK);
    }
    // Until the predicate holds; false after ten seconds.
    template <class Done> static bool eventually(Done done) {
        for (int i = 0; i < 2000; ++i) {
            if (done()) return true;
            usleep(5000);
        }
        return false;
    }

    fs::path folder;
};

TEST_F(JsonlWriter, CompressedIsTheSameText) {
    for (const char *name : {"a.jsonl", "a.jsonl.zst", "b.jsonl.zst"}) {
        Host host;
        load(host, "path=" + (folder / name).string() + (name[0] == 'b' ? ",level=19" : ""));
        host.begin_run();
        for (int i = 0; i < 30; ++i) step(host, i);
    }
    const auto without_time = [](std::vector<json> records) {
        for (json &record : records) record.erase("time"), record.erase("ns");
        return records;
    };
    const std::vector<json> plain = without_time(records_of(bytes_of(folder / "a.jsonl")));
    EXPECT_EQ(plain.size(), 2u + 30 * 3);
    size_t n_packed[2] = {};
    for (int i = 0; i < 2; ++i) {
        bool ended = false;
        const std::string packed = bytes_of(folder / (i ? "b.jsonl.zst" : "a.jsonl.zst"));
        EXPECT_EQ(without_time(records_of(decompress(packed, &ended))), plain);
        EXPECT_TRUE(ended);
        n_packed[i] = packed.size();
        EXPECT_LT(packed.size(), bytes_of(folder / "a.jsonl").size() * 2 / 3);
    }
    EXPECT_LT(n_packed[1], n_packed[0]);
}

TEST_F(JsonlWriter, ASecondContextKeepsBothExtensions) {
    Host first, second;
    for (Host *host : {&first, &second}) {
        load(*host, "path=" + (folder / "a.jsonl.zst").string());
        host->begin_run();
        step(*host, 0);
    }
    EXPECT_TRUE(fs::exists(folder / "a.jsonl.zst"));
    EXPECT_TRUE(fs::exists(folder / "a-1.jsonl.zst"));
}

// While the context is still there.
TEST_F(JsonlWriter, EveryStepCanBeDecompressedSoonAfterItsEnd) {
    const fs::path path = folder / "a.jsonl.zst";
    Host host;
    load(host, "path=" + path.string());
    host.begin_run();
    for (int i = 0; i < 5; ++i) {
        step(host, i);
        bool ended = true;
        EXPECT_TRUE(eventually([&] {
            return records_of(decompress(bytes_of(path), &ended)).size() == 1u + 3u * unsigned(i + 1);
        })) << i;
        EXPECT_FALSE(ended);
    }
}

// How often the writer's thread has gone to sleep.
long sleeps_of_writer() {
    for (const auto &task : fs::directory_iterator("/proc/self/task")) {
        if (bytes_of(task.path() / "comm") != "bitnet-trace\n") continue;
        const std::string status = bytes_of(task.path() / "status"), key = "\nvoluntary_ctxt_switches:";
        const size_t at = status.find(key);
        if (at != std::string::npos) return std::stol(status.substr(at + key.size()));
    }
    return -1;
}

TEST_F(JsonlWriter, QuickStepsAreWrittenTogether) {
    constexpr int kSteps = 300;
    const fs::path path = folder / "a.jsonl";
    Host host;
    load(host, "path=" + path.string());
    host.begin_run();
    step(host, 0);
    const long before = sleeps_of_writer();
    ASSERT_GE(before, 0);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 1; i < kSteps; ++i) step(host, i), usleep(200);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    // Some for each time that it writes, twenty times in a second; and not one for each step.
    EXPECT_LT(double(sleeps_of_writer() - before), 10 + 200 * seconds);
    EXPECT_LT(sleeps_of_writer() - before, kSteps / 2);
    EXPECT_TRUE(eventually([&] { return records_of(bytes_of(path)).size() == 1u + 3u * kSteps; }));
    // Who waits for the end of a run does not wait for more lines.
    const auto ends = std::chrono::steady_clock::now();
    for (int i = 0; i < 20; ++i) {
        step(host, kSteps + i);
        trace_host_end_run(host.host);
        host.begin_run();
    }
    EXPECT_LT(std::chrono::duration<double>(std::chrono::steady_clock::now() - ends).count(), 0.5);
}

TEST_F(JsonlWriter, ACutStreamReadsUpToAWholeRecord) {
    const fs::path path = folder / "a.jsonl.zst";
    {
        Host host;
        load(host, "path=" + path.string());
        host.begin_run();
        // What is evaluated quickly one after the other is flushed together.
        for (int i = 0; i < 40; ++i) {
            step(host, i);
            bool ended = false;
            EXPECT_TRUE(i % 5 != 4 || eventually([&] {
                            return records_of(decompress(bytes_of(path), &ended)).size() == 1u + 3u * unsigned(i + 1);
                        }))
                << i;
        }
    }
    const std::string packed = bytes_of(path);
    std::mt19937 random(1);
    size_t n_before = 0;
    std::vector<size_t> cuts;
    for (int i = 0; i < 100; ++i) cuts.push_back(random() % packed.size());
    std::sort(cuts.begin(), cuts.end());
    for (size_t cut : cuts) {
        bool ended = true;
        const size_t n = records_of(decompress(packed.substr(0, cut), &ended)).size();
        EXPECT_FALSE(ended);
        EXPECT_GE(n, n_before);
        n_before = n;
    }
    EXPECT_GT(n_before, 100u);
}

// A reader that is slow stops the evaluation, and nothing is lost.
TEST_F(JsonlWriter, BackPressure) {
    const fs::path path = folder / "pipe";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK);
    ASSERT_GE(reader, 0);
    fcntl(reader, F_SETFL, 0);
    constexpr int kSteps = 60;
    constexpr unsigned kRows = 100;
    std::atomic<int> n_done{0};
    std::thread evaluator([&] {
        Host host;
        load(host, "path=" + path.string() + ",queue=1");
        host.begin_run();
        for (int i = 0; i < kSteps; ++i) step(host, i, kRows), ++n_done;
        trace_host_end_run(host.host);
        EXPECT_EQ(host.stats().n_failures, 0u) << host.stats().last_failure;
    });
    // It comes to a halt with about a queue and a buffer full of records, some thousand bytes each.
    int before = -1;
    EXPECT_TRUE(eventually([&] {
        const int now = n_done;
        const bool halted = now == before && now > 0;
        before = now;
        usleep(200000);
        return halted;
    }));
    EXPECT_LT(n_done, kSteps / 2);
    std::string text;
    std::vector<char> buffer(1 << 16);
    for (ssize_t n; (n = read(reader, buffer.data(), buffer.size())) > 0;) text.append(buffer.data(), size_t(n));
    evaluator.join();
    close(reader);
    const std::vector<json> records = records_of(text);
    ASSERT_EQ(records.size(), 2u + kSteps * (kRows + 1));
    EXPECT_EQ(records.back()["records"], kSteps * kRows);
}

TEST_F(JsonlWriter, AFailureReachesTheNextEvent) {
    Host host;
    load(host, "path=/dev/full");
    host.begin_run();
    step(host, 0);
    EXPECT_TRUE(eventually([&] {
        trace_host_begin_step(host.host, 1, nullptr, 1);
        trace_host_end_step(host.host, BITNET_OK);
        return host.stats().n_failures == 1;
    }));
    const std::string failure = host.stats().last_failure;
    EXPECT_EQ(failure.rfind("sink 'jsonl': event ", 0), 0u) << failure;
    EXPECT_NE(failure.find(" failed: cannot write to '/dev/full': No space left on device"), std::string::npos);
    EXPECT_EQ(host.stats().n_sinks, 0u);
}

TEST_F(JsonlWriter, AFolderThatVanishes) {
    const fs::path inner = folder / "inner";
    fs::create_directory(inner);
    Host host;
    load(host, "path=" + (inner / "a.jsonl").string());
    host.begin_run();
    step(host, 0);
    ASSERT_EQ(trace_host_end_run(host.host), BITNET_OK) << host.stats().last_failure;
    fs::remove_all(inner);
    host.begin_run();
    step(host, 1);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
    EXPECT_NE(strstr(host.stats().last_failure, "a.jsonl': the file was removed"), nullptr)
        << host.stats().last_failure;
}

// A file size limit cuts a compressed block: the blocks before it stay.
TEST_F(JsonlWriter, AFullDiskLeavesWholeBlocks) {
    const fs::path path = folder / "a.jsonl.zst";
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit = {9000, 9000};  // its signal would end the process
        setrlimit(RLIMIT_FSIZE, &limit);
        Host host;
        load(host, "path=" + path.string());
        host.begin_run();
        for (int i = 0; i < 100; ++i) step(host, i), usleep(300);
        trace_host_end_run(host.host);
        _exit(strstr(host.stats().last_failure, "File too large") ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    const std::string packed = bytes_of(path);
    EXPECT_LT(packed.size(), 9000u);
    bool ended = true;
    const std::string text = decompress(packed, &ended);
    EXPECT_FALSE(ended);
    ASSERT_FALSE(text.empty());
    EXPECT_EQ(text.back(), '\n');
    EXPECT_GE(records_of(text).size(), 4u);
}

// The child has no such thread; a mutex may have been locked, a write under way.
TEST_F(JsonlWriter, AForkWithAWriterAtWork) {
    const fs::path path = folder / "pipe";
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK);
    fcntl(reader, F_SETFL, 0);
    std::string text;
    {
        Host host;
        load(host, "path=" + path.string());
        host.begin_run();
        step(host, 0, 200);  // more than a pipe holds: the thread waits
        const pid_t child = fork();
        if (child == 0) {
            alarm(20);
            trace_host_end_run(host.host);
            step(host, 1);
            trace_host_detach_all(host.host);
            bool ok = strstr(host.stats().last_failure, "forked") != nullptr;
            if (!kThreadsInChildren) _exit(ok ? 0 : 1);
            Host own;  // and it may trace by itself
            ok = ok && trace_host_load_plugin(own.host, kPlugin.c_str(), ("path=" + (folder / "own").string()).c_str(),
                                              own.error) == BITNET_OK;
            own.begin_run();
            step(own, 0);
            ok = ok && trace_host_end_run(own.host) == BITNET_OK;
            trace_host_detach_all(own.host);
            _exit(ok ? 0 : 1);
        }
        int status = 0;
        waitpid(child, &status, 0);
        EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
        std::thread drain([&] {
            std::vector<char> buffer(1 << 16);
            for (ssize_t n; (n = read(reader, buffer.data(), buffer.size())) > 0;)
                text.append(buffer.data(), size_t(n));
        });
        trace_host_detach_all(host.host);
        drain.join();
    }
    close(reader);
    EXPECT_EQ(records_of(text).size(), 3u + 200);
    EXPECT_EQ(records_of(bytes_of(folder / "own")).size(), kThreadsInChildren ? 5u : 0u);
}

TEST_F(JsonlWriter, AProcessThatExitsWithoutClosingLeavesEveryStep) {
    for (const char *name : {"a.jsonl", "a.jsonl.zst"}) {
        const fs::path path = folder / name;
        const pid_t child = fork();
        if (child == 0) {
            Host *host = new Host;
            load(*host, "path=" + path.string());
            host->begin_run();
            for (int i = 0; i < 50; ++i) step(*host, i, 20);
            exit(0);
        }
        int status = 0;
        waitpid(child, &status, 0);
        bool ended;
        const std::string bytes = bytes_of(path);
        EXPECT_EQ(records_of(name[7] ? decompress(bytes, &ended) : bytes).size(), 1u + 50 * 21) << name;
    }
}

TEST_F(JsonlWriter, TheThreadTakesNoSignals) {
    Host host;
    load(host, "path=" + (folder / "a.jsonl").string());
    host.begin_run();
    step(host, 0);
    int n_found = 0;
    for (const auto &task : fs::directory_iterator("/proc/self/task")) {
        std::ifstream name(task.path() / "comm"), status(task.path() / "status");
        std::string line;
        std::getline(name, line);
        if (line != "bitnet-trace") continue;
        ++n_found;
        while (std::getline(status, line) && line.rfind("SigBlk:", 0) != 0) {
        }
        const uint64_t blocked = std::stoull(line.substr(8), nullptr, 16);
        for (int signal : {SIGINT, SIGTERM, SIGPIPE, SIGXFSZ, SIGALRM, SIGUSR1, SIGCHLD, SIGHUP})
            EXPECT_TRUE(blocked >> (signal - 1) & 1) << signal;
    }
    EXPECT_EQ(n_found, 1);
    sigset_t ours;
    pthread_sigmask(SIG_SETMASK, nullptr, &ours);
    EXPECT_FALSE(sigismember(&ours, SIGTERM));
}

TEST_F(JsonlWriter, AHundredContextsLeaveNothingBehind) {
    const auto use = [&](int i) {
        Host host;
        load(host, "path=" + (folder / ("a" + std::to_string(i % 4) + (i % 2 ? ".jsonl" : ".jsonl.zst"))).string());
        host.begin_run();
        if (i % 10) step(host, 0);
    };
    for (int i = 0; i < 10; ++i) use(i);
    const size_t n_files = entries_of("/proc/self/fd"), n_bytes = mallinfo2().uordblks;
    for (int i = 0; i < 100; ++i) use(i);
    EXPECT_EQ(entries_of("/proc/self/fd"), n_files);
    if (kSanitized) return;  // they have threads and an allocator of their own
    EXPECT_TRUE(eventually([] { return entries_of("/proc/self/task") == 1; }));
    EXPECT_LT(mallinfo2().uordblks, n_bytes + 100000);
}

// Contexts of several threads, each with a file of its own.
TEST_F(JsonlWriter, ManyThreads) {
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            for (int i = 0; i < 5; ++i) {
                Host host;
                load(host, "path=" + (folder / "a.jsonl").string());
                host.begin_run();
                for (int k = 0; k < 5; ++k) step(host, k);
            }
        });
    }
    for (std::thread &thread : threads) thread.join();
    EXPECT_GE(entries_of(folder.c_str()), 1u);
    EXPECT_LE(entries_of(folder.c_str()), 4u);
    for (const auto &entry : fs::directory_iterator(folder))
        EXPECT_EQ(records_of(bytes_of(entry.path())).size(), 2u + 15) << entry.path();
}

}  // namespace
}  // namespace bitnet
