// Every plugin of the matrix, attached through the boundary: an evaluation gives the same bits with and without it,
// each failure has its own text and is counted, and the other sinks go on.
#include <algorithm>
#include <mutex>
#include <set>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr const char *kWhyNoCrashes = "TSan delivers signals when it likes: a crash is not caught where it happens";
#else
constexpr const char *kWhyNoCrashes = nullptr;
#endif

std::string path_of(const char *name) { return std::string(MATRIX_DIRECTORY) + "/lib" + name + ".so"; }

enum class When { attach, use, detach, never };

struct Fault {
    const char *name;
    When when;
    std::string text;
    bitnet_status_t status = BITNET_E_PLUGIN;  // of the attachment
    bool crashes = false;
};

std::string refused(const char *name, const std::string &text) {
    return std::string("plugin 'lib") + name + ".so': " + text;
}

std::vector<Fault> faults() {
    const std::string entry = "bitnet_trace_plugin_v1 ";
    return {
        {"no_symbol", When::attach,
         refused("no_symbol", "'" + path_of("no_symbol").substr(0, 200) + "' does not export bitnet_trace_plugin_v1")},
        {"declines", When::attach, refused("declines", "declined: not on a Tuesday")},
        {"declines_silently", When::attach, refused("declines_silently", "declined without a reason")},
        {"wrong_major", When::attach,
         refused("wrong_major", "built for plugin ABI 2.0, this host has 1.0 (the major must be equal)"), BITNET_E_ABI},
        {"newer_fields", When::attach,
         refused("newer_fields", "built for plugin ABI 1.1, uses fields that this host (1.0) does not know"),
         BITNET_E_ABI},
        {"short_struct", When::attach,
         refused("short_struct", "its table is 24 bytes, expected at least 56 and at most 4096"), BITNET_E_ABI},
        {"huge_struct", When::attach,
         refused("huge_struct", "its table is 2147483647 bytes, expected at least 56 and at most 4096"), BITNET_E_ABI},
        {"no_event", When::attach, refused("no_event", "its table has no event function")},
        {"open_fails", When::attach, refused("open_fails", "open failed: no such disk second line")},
        {"open_fails_silently", When::attach,
         refused("open_fails_silently", "open failed with status -3 and without a reason")},
        {"open_garbage", When::attach,
         refused("open_garbage", "open failed with status -2147483648 and without a reason")},
        {"open_throws", When::attach, refused("open_throws", "open failed: threw an exception: open went wrong")},
        {"entry_throws", When::attach, refused("entry_throws", entry + "threw an exception: entry went wrong")},
        {"open_segfaults", When::attach, refused("open_segfaults", "open failed: crashed (SIGSEGV)"), BITNET_E_PLUGIN,
         true},
        {"open_aborts", When::attach, refused("open_aborts", "open failed: crashed (SIGABRT)"), BITNET_E_PLUGIN, true},
        {"open_divides", When::attach, refused("open_divides", "open failed: crashed (SIGFPE)"), BITNET_E_PLUGIN, true},
        {"entry_segfaults", When::attach, refused("entry_segfaults", entry + "crashed (SIGSEGV)"), BITNET_E_PLUGIN,
         true},
        {"entry_aborts", When::attach, refused("entry_aborts", entry + "crashed (SIGABRT)"), BITNET_E_PLUGIN, true},
        {"event_fails", When::use, "sink 'matrix': event 2 failed: disk on fire"},
        {"event_fails_silently", When::use, "sink 'matrix': event 0 failed with status 7 and without a reason"},
        {"event_garbage", When::use, "sink 'matrix': event 0 failed with status 2147483647 and without a reason"},
        {"event_throws", When::use, "sink 'matrix': event 2 failed: threw an exception: event went wrong"},
        {"event_throws_int", When::use, "sink 'matrix': event 0 failed: threw an exception that is no std::exception"},
        {"flush_fails", When::use, "sink 'matrix': flush failed: cannot flush"},
        {"flush_garbage", When::use, "sink 'matrix': flush failed with status 12345 and without a reason"},
        {"flush_throws", When::use, "sink 'matrix': flush failed: threw an exception: flush went wrong"},
        {"close_throws", When::detach, "sink 'matrix': close failed: threw an exception: std::bad_alloc"},
        {"good", When::never, ""},
        {"newer_minor", When::never, ""},
        {"no_optional", When::never, ""},
        {"slow", When::never, ""},
    };
}

bool skipped(const Fault &fault) { return fault.crashes && kWhyNoCrashes; }

bitnet_trace_stats_t stats(bitnet_ctx_t *ctx) {
    auto out = make<bitnet_trace_stats_t>();
    EXPECT_OK(bitnet_trace_get_stats(ctx, &out));
    return out;
}

// A prefill, a decoded token: the logits of both.
std::vector<float> evaluate(bitnet_ctx_t *ctx) {
    EXPECT_OK(eval(ctx, prompt(6), BITNET_LOGITS_ALL));
    std::vector<float> all = rows(ctx);
    EXPECT_OK(eval(ctx, {17}));
    const std::vector<float> last = row(ctx);
    all.insert(all.end(), last.begin(), last.end());
    return all;
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && !a.empty() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

constexpr size_t kEvents = 1 + 2 * 2 + 1;  // run begin and end, two steps, and the tensors

TEST(Matrix, NoPluginChangesAnEvaluation) {
    const Model model = load();
    const std::vector<float> expected = evaluate(context(model.get()).get());
    std::set<std::string> texts;
    for (const Fault &fault : faults()) {
        SCOPED_TRACE(fault.name);
        if (skipped(fault)) continue;
        Recorder before, after;
        const Context ctx = context(model.get());
        ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &before.table, &before));
        const bitnet_status_t status = bitnet_trace_load_plugin(ctx.get(), path_of(fault.name).c_str(), nullptr);
        ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &after.table, &after));
        if (fault.when == When::attach) {
            EXPECT_EQ(status, fault.status);
            EXPECT_EQ(bitnet_last_error(), "bitnet_trace_load_plugin: " + fault.text);
        } else {
            EXPECT_OK(status);
        }
        EXPECT_TRUE(same_bits(evaluate(ctx.get()), expected));
        const bitnet_status_t ended = bitnet_trace_end_run(ctx.get());
        EXPECT_EQ(ended, fault.when == When::use && fault.name[0] == 'f' ? BITNET_E_PLUGIN : BITNET_OK);
        EXPECT_EQ(stats(ctx.get()).n_sinks, fault.when == When::attach || fault.when == When::use ? 2u : 3u);
        ASSERT_OK(bitnet_trace_set_sink(ctx.get(), nullptr, nullptr));
        EXPECT_EQ(stats(ctx.get()).n_failures, fault.when == When::never ? 0u : 1u);
        EXPECT_EQ(stats(ctx.get()).last_failure, fault.text.substr(0, 255));
        EXPECT_TRUE(texts.insert(fault.text).second || fault.when == When::never) << "not a text of its own";
        // The sinks on either side of it have seen all there was.
        for (const Recorder *sink : {&before, &after}) {
            EXPECT_GT(sink->seen.size(), kEvents);
            EXPECT_EQ(sink->seen.size(), before.seen.size());
            EXPECT_EQ(sink->seen.back().header.type, uint32_t(BITNET_EVENT_RUN_END));
            EXPECT_EQ(sink->n_closed, 1);
        }
    }
    EXPECT_EQ(texts.size(), kWhyNoCrashes ? 23u : 28u);
}

TEST(Matrix, TheSameFromTheEnvironment) {
    const Model model = load();
    const std::vector<float> expected = evaluate(context(model.get()).get());
    const Env path("BITNET_PLUGIN_PATH", MATRIX_DIRECTORY);
    std::string all;
    uint64_t n_failures = 0, n_left = 0;
    for (const Fault &fault : faults()) {
        if (skipped(fault)) continue;
        const Env one("BITNET_TRACE_PLUGIN", fault.name);
        const Context ctx = context(model.get());
        ASSERT_NE(ctx, nullptr) << fault.name;
        EXPECT_TRUE(same_bits(evaluate(ctx.get()), expected)) << fault.name;
        bitnet_trace_end_run(ctx.get());
        const bool failed = fault.when == When::attach || fault.when == When::use;
        EXPECT_EQ(stats(ctx.get()).n_failures, failed) << fault.name;
        EXPECT_EQ(stats(ctx.get()).n_sinks, !failed) << fault.name;
        // Plugins that are found by name are called by it.
        const std::string from = std::string("lib") + fault.name + ".so", text = stats(ctx.get()).last_failure;
        EXPECT_TRUE(!failed || fault.text.find(from) != std::string::npos || text == fault.text) << text;
        EXPECT_EQ(text.empty(), !failed) << fault.name << ": " << text;
        all += (all.empty() ? "" : ";") + std::string(fault.name);
        n_failures += failed;
        n_left += !failed;
    }
    const Env everything("BITNET_TRACE_PLUGIN", all);  // all of them at once
    const Context ctx = context(model.get());
    ASSERT_NE(ctx, nullptr);
    EXPECT_TRUE(same_bits(evaluate(ctx.get()), expected));
    bitnet_trace_end_run(ctx.get());
    EXPECT_EQ(stats(ctx.get()).n_failures, n_failures);
    EXPECT_EQ(stats(ctx.get()).n_sinks, n_left);
}

// A crash or an exception in a constructor leaves the loader's lock held by that thread, so this needs a process of its
// own.
void in_a_child(const std::function<void()> &body) {
    const pid_t child = fork();
    if (child == 0) {
        alarm(20);
        body();
        _exit(testing::Test::HasFailure() ? 1 : 0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << (WIFSIGNALED(status) ? "killed by signal " + std::to_string(WTERMSIG(status)) : "failed, see above");
}

TEST(Matrix, ConstructorsThatFail) {
    if (kWhyNoCrashes) GTEST_SKIP() << kWhyNoCrashes;
    for (const auto &[name, text] :
         {std::pair("constructor_segfaults", "cannot be loaded: its constructors crashed (SIGSEGV)"),
          {"constructor_throws", "cannot be loaded: its constructors threw an exception: constructor went wrong"}}) {
        in_a_child([&, plugin = name, expected_text = text] {
            const Model model = load();
            const std::vector<float> expected = evaluate(context(model.get()).get());
            const Context ctx = context(model.get());
            EXPECT_EQ(bitnet_trace_load_plugin(ctx.get(), path_of(plugin).c_str(), nullptr), BITNET_E_PLUGIN);
            EXPECT_EQ(bitnet_last_error(), "bitnet_trace_load_plugin: " + refused(plugin, expected_text));
            EXPECT_EQ(stats(ctx.get()).n_failures, 1u);
            // The same thread still loads others, and evaluates.
            EXPECT_OK(bitnet_trace_load_plugin(ctx.get(), path_of("good").c_str(), nullptr));
            EXPECT_TRUE(same_bits(evaluate(ctx.get()), expected));
        });
    }
}

// Signals of a plugin that crashes are caught while it is being opened, and the program's own handlers are back
// afterwards.
volatile sig_atomic_t n_caught = 0;

TEST(Matrix, TheProgramKeepsItsSignalHandlers) {
    if (kWhyNoCrashes) GTEST_SKIP() << kWhyNoCrashes;
    struct sigaction ours = {}, before = {}, now = {};
    ours.sa_handler = [](int) { n_caught = n_caught + 1; };
    ASSERT_EQ(sigaction(SIGFPE, &ours, &before), 0);
    const Model model = load();
    const Context ctx = context(model.get());
    expect_error(bitnet_trace_load_plugin(ctx.get(), path_of("open_divides").c_str(), nullptr), BITNET_E_PLUGIN,
                 {"SIGFPE"});
    EXPECT_EQ(n_caught, 0);
    raise(SIGFPE);
    EXPECT_EQ(n_caught, 1);
    ASSERT_EQ(sigaction(SIGFPE, &before, &now), 0);
    EXPECT_EQ(now.sa_handler, ours.sa_handler);
}

// What a log callback is told, for the user who sees nothing else.
TEST(Matrix, FailuresAreLogged) {
    static std::vector<std::string> lines;
    lines.clear();
    bitnet_set_log([](void *, int32_t level, const char *text) { lines.push_back(std::to_string(level) + " " + text); },
                   nullptr);
    const Model model = load();
    {
        const Context ctx = context(model.get());
        bitnet_trace_load_plugin(ctx.get(), path_of("event_throws").c_str(), nullptr);
        evaluate(ctx.get());
    }
    bitnet_set_log(nullptr, nullptr);
    EXPECT_NE(
        std::find(lines.begin(), lines.end(), "1 sink 'matrix': event 2 failed: threw an exception: event went wrong"),
        lines.end());
}

}  // namespace
}  // namespace bitnet_test
