// Plugins in hard places: many threads, many contexts, forks, odd paths, folders that vanish, slow sinks.
#include <atomic>
#include <barrier>
#include <filesystem>
#include <fstream>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

namespace fs = std::filesystem;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // quarantined memory and shadow memory count as resident
#else
constexpr bool kSanitized = false;
#endif

class Robustness : public testing::Test {
protected:
    const Model model_ = load();
    fs::path folder_;

    void SetUp() override {
        char name[] = "/tmp/bitnet-robust-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder_ = name;
    }
    void TearDown() override {
        std::error_code error;
        fs::remove_all(folder_, error);
    }
    std::string path(const std::string &name) const { return (folder_ / name).string(); }

    static std::string plugin(const char *name) { return std::string(PLUGIN_DIRECTORY) + "/lib" + name + ".so"; }
    static bitnet_trace_stats_t stats(bitnet_ctx_t *ctx) {
        auto out = make<bitnet_trace_stats_t>();
        EXPECT_OK(bitnet_trace_get_stats(ctx, &out));
        return out;
    }

    // Every plugin that there is, each with a configuration that several contexts can share.
    struct Attached {
        const char *name;
        std::string config;
    };
    std::vector<Attached> all() const {
        return {{"null", ""},
                {"jsonl", "path=" + path("a.jsonl")},
                {"npy", "raw=all,dir=" + path("raw")},
                {"timeline", "path=" + path("a.trace.json")},
                {"tracedir", "dir=" + path("traces")},
                {"check", "trace=" + path("reference.jsonl") + ",report=" + path("check.json")}};
    }
    // A trace of `tokens` for the check sink.
    void record(const std::vector<int32_t> &tokens) const {
        const Context ctx = context(model_.get());
        ASSERT_OK(
            bitnet_trace_load_plugin(ctx.get(), plugin("jsonl").c_str(), ("path=" + path("reference.jsonl")).c_str()));
        ASSERT_OK(eval(ctx.get(), tokens));
    }
    void attach(bitnet_ctx_t *ctx, const Attached &one) const {
        ASSERT_OK(bitnet_trace_load_plugin(ctx, plugin(one.name).c_str(), one.config.c_str()));
    }
};

std::string content(const fs::path &file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
}

TEST_F(Robustness, FourContextsOnFourThreads) {
    record(prompt(5));
    const std::vector<float> expected = logits_after(model_.get(), prompt(5));
    for (const Attached &one : all()) {
        SCOPED_TRACE(one.name);
        std::atomic<int> n_good{0};
        std::barrier together(4);  // every context is attached before one is done
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t) {
            threads.emplace_back([&] {
                const Context ctx = context(model_.get());
                attach(ctx.get(), one);
                together.arrive_and_wait();
                EXPECT_OK(eval(ctx.get(), prompt(5)));
                const bool same = row(ctx.get()) == expected;
                EXPECT_OK(bitnet_trace_end_run(ctx.get()));
                const bitnet_trace_stats_t s = stats(ctx.get());
                EXPECT_EQ(s.n_failures, 0u) << s.last_failure;
                n_good += same && s.n_sinks == 1;
            });
        }
        for (std::thread &thread : threads) thread.join();
        EXPECT_EQ(n_good, 4);
    }
    // Each context wrote files of its own, all with the same rows.
    for (const char *name : {"check.json", "check-1.json", "check-2.json", "check-3.json"})
        EXPECT_NE(content(path(name)).find("\"verdict\":\"match\""), std::string::npos) << name;
    for (const char *name : {"a.jsonl", "a-1.jsonl", "a-2.jsonl", "a-3.jsonl"})
        EXPECT_NE(content(path(name)).find("\"record\":\"run_end\""), std::string::npos) << name;
}

size_t count_entries(const char *folder) {
    size_t n = 0;
    for (const fs::directory_entry &entry : fs::directory_iterator(folder)) n += !entry.path().empty();
    return n;
}

uint64_t resident_kb() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("VmRSS:", 0) == 0) return std::stoull(line.substr(6));
    }
    return 0;
}

TEST_F(Robustness, AHundredContextsLeaveNothingBehind) {
    record(prompt(3));
    const auto cycle = [&](int n) {
        for (int i = 0; i < n; ++i) {
            const Context ctx = context(model_.get());
            for (const Attached &one : all()) attach(ctx.get(), one);
            ASSERT_OK(bitnet_trace_select(ctx.get(), "2:0-1:layer_out"));
            ASSERT_OK(eval(ctx.get(), prompt(3)));
            ASSERT_EQ(stats(ctx.get()).n_failures, 0u) << stats(ctx.get()).last_failure;
        }
    };
    cycle(5);  // what is loaded and allocated once
    const size_t n_fds = count_entries("/proc/self/fd"), n_threads = count_entries("/proc/self/task");
    const uint64_t kb = resident_kb();
    cycle(100);
    EXPECT_EQ(count_entries("/proc/self/fd"), n_fds);
    EXPECT_EQ(count_entries("/proc/self/task"), n_threads);
    if (kSanitized) return;
    EXPECT_LT(resident_kb(), kb + 4096);  // 40 KB a context would be 4 MB
}

TEST_F(Robustness, AForkedChildWritesNowhere) {
    record(prompt(3));
    const Context ctx = context(model_.get());
    for (const Attached &one : all()) attach(ctx.get(), one);
    ASSERT_OK(eval(ctx.get(), prompt(2)));
    const pid_t child = fork();
    if (child == 0) {
        // What a child does that ends in good order, and one that does not know better.
        const int32_t token = prompt(3)[2];
        bitnet_eval_tokens(ctx.get(), &token, 1, nullptr);
        bitnet_trace_end_run(ctx.get());
        _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    ASSERT_OK(eval(ctx.get(), {prompt(3)[2]}));
    EXPECT_EQ(row(ctx.get()), logits_after(model_.get(), prompt(3)));
    EXPECT_OK(bitnet_trace_end_run(ctx.get()));
    EXPECT_EQ(stats(ctx.get()).n_sinks, all().size());
    ASSERT_OK(bitnet_trace_set_sink(ctx.get(), nullptr, nullptr));
    EXPECT_NE(content(path("check.json")).find("\"verdict\":\"match\""), std::string::npos);
    const std::string trace = content(path("a.jsonl"));
    size_t n_ends = 0;
    for (size_t at = 0; (at = trace.find("\"record\":\"run_end\"", at)) != std::string::npos; ++at) ++n_ends;
    EXPECT_EQ(n_ends, 1u);
    EXPECT_EQ(trace, content(path("a.jsonl")));
}

TEST_F(Robustness, PathsWithSpacesAndOtherAlphabets) {
    const fs::path odd = folder_ / "two words" / "\xc3\xa9t\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac \xff";
    fs::create_directories(odd);
    folder_ = odd;  // everything below it
    record(prompt(3));
    const fs::path library = odd / "lib my plugin.so";
    fs::copy_file(plugin("null"), library);
    {
        const Context ctx = context(model_.get());
        for (const Attached &one : all()) attach(ctx.get(), one);
        ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), library.c_str(), nullptr));
        const Env found("BITNET_PLUGIN_PATH", odd.string());
        ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), " my plugin", nullptr));
        ASSERT_OK(eval(ctx.get(), prompt(3)));
        EXPECT_OK(bitnet_trace_end_run(ctx.get()));
        EXPECT_EQ(stats(ctx.get()).n_sinks, all().size() + 2);
    }
    for (const char *name : {"a.jsonl", "a.trace.json", "check.json"})
        EXPECT_GT(fs::file_size(odd / name), 100u) << name;
    for (const char *name : {"raw", "traces"}) EXPECT_FALSE(fs::is_empty(odd / name)) << name;
    folder_ = odd.parent_path().parent_path();
}

TEST_F(Robustness, RelativePathsAndAChangeOfFolder) {
    fs::create_directory(path("later"));
    const fs::path before = fs::current_path();
    record(prompt(3));
    fs::current_path(folder_);
    {
        const Context ctx = context(model_.get());
        ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), plugin("jsonl").c_str(), "path=rel.jsonl"));
        ASSERT_OK(
            bitnet_trace_load_plugin(ctx.get(), plugin("check").c_str(), "trace=reference.jsonl,report=rel.json"));
        ASSERT_OK(eval(ctx.get(), prompt(2)));
        fs::current_path(folder_ / "later");
        ASSERT_OK(eval(ctx.get(), {prompt(3)[2]}));
        EXPECT_OK(bitnet_trace_end_run(ctx.get()));
        EXPECT_EQ(stats(ctx.get()).n_failures, 0u) << stats(ctx.get()).last_failure;
    }
    fs::current_path(before);
    EXPECT_NE(content(path("rel.jsonl")).find("\"record\":\"run_end\""), std::string::npos);
    EXPECT_NE(content(path("rel.json")).find("\"verdict\":\"match\""), std::string::npos);
    EXPECT_TRUE(fs::is_empty(path("later")));
}

TEST_F(Robustness, FoldersThatCannotBeWrittenOrAreGone) {
    const std::vector<float> expected = logits_after(model_.get(), prompt(4));
    record(prompt(4));
    const std::string gone = path("gone");
    const std::vector<Attached> sinks = {
        {"jsonl", "path=" + gone + "/a.jsonl"},
        {"npy", "raw=all,dir=" + gone + "/below/raw"},
        {"timeline", "path=" + gone + "/a.trace.json"},
        {"tracedir", "dir=" + gone + "/below/traces"},
        {"check", "trace=" + path("reference.jsonl") + ",report=" + gone + "/check.json"}};
    for (const Attached &one : sinks) {
        SCOPED_TRACE(one.name);
        const Context ctx = context(model_.get());
        fs::create_directory(gone);
        const bitnet_status_t status =
            bitnet_trace_load_plugin(ctx.get(), plugin(one.name).c_str(), one.config.c_str());
        fs::remove_all(gone);  // before anything is written, or after it was opened
        std::ofstream(gone) << "in its place";
        EXPECT_OK(eval(ctx.get(), prompt(4)));
        EXPECT_EQ(row(ctx.get()), expected);
        if (status == BITNET_OK) bitnet_trace_end_run(ctx.get());
        const bitnet_trace_stats_t s = stats(ctx.get());
        EXPECT_EQ(s.n_failures, 1u);
        EXPECT_NE(std::string(s.last_failure).find(gone), std::string::npos) << s.last_failure;
        EXPECT_EQ(s.n_sinks, 0u);
        fs::remove_all(gone);
    }
}

TEST_F(Robustness, ASlowSinkCostsTimeOnlyAndItIsCounted) {
    const Context ctx = context(model_.get());
    const std::string slow = std::string(MATRIX_DIRECTORY) + "/libslow.so";
    ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), slow.c_str(), nullptr));
    ASSERT_OK(eval(ctx.get(), prompt(4)));
    EXPECT_EQ(row(ctx.get()), logits_after(model_.get(), prompt(4)));
    const bitnet_trace_stats_t s = stats(ctx.get());
    // 0.1 ms for each tensor: time in sinks is theirs.
    EXPECT_GT(s.n_events, 50u);
    EXPECT_GE(s.seconds, double(s.n_events - 2) * 1e-4);
}

}  // namespace
}  // namespace bitnet_test
