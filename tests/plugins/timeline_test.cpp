// The timeline sink against the rules of the Trace Event Format: required keys, strict JSON, slices that nest.
#include <algorithm>
#include <csignal>
#include <map>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

#include "tests/plugins/fixture.h"
#include "tests/plugins/sink_harness.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Attachment;
using test::read_bytes;
using test::rows_of;

const std::string kPlugin = std::string(PLUGIN_DIRECTORY) + "/libtimeline.so";

struct Slice {
    int64_t begin, end;
    std::string name;
    int64_t tid;
    json args;
    size_t index;  // in the file: of slices that begin at the same time viewers take the first as the outer one
    bool operator<(const Slice &other) const { return std::tie(begin, index) < std::tie(other.begin, other.index); }
};

int64_t ns_of(const json &microseconds) {
    EXPECT_TRUE(microseconds.is_number());
    return std::llround(microseconds.get<double>() * 1000);
}

void check_required_keys(const json &event) {
    const std::string phase = event.at("ph");
    EXPECT_TRUE(event.at("name").is_string()) << event;
    EXPECT_TRUE(event.at("tid").is_number_integer()) << event;
    if (phase == "M") {
        EXPECT_TRUE(event["name"] == "process_name" || event["name"] == "thread_name") << event;
        EXPECT_TRUE(event.at("args").at("name").is_string()) << event;
        return;
    }
    EXPECT_GE(ns_of(event.at("ts")), 0) << event;
    EXPECT_TRUE(event.at("cat").is_string()) << event;
    if (phase == "X") {
        EXPECT_GE(ns_of(event.at("dur")), 0) << event;
    }
    if (phase == "i") {
        EXPECT_EQ(event.at("s"), "p") << event;
    }
    if (phase == "C") {
        for (const json &value : event.at("args")) EXPECT_TRUE(value.is_number()) << event;
    }
    EXPECT_TRUE((std::set<std::string>{"X", "B", "E", "i", "C"}.count(phase))) << event;
}

// Every slice, by begin; B and E are paired. With an `open` step at the end where the process was killed.
std::vector<Slice> check_and_pair(const json &events, int n_open = 0) {
    EXPECT_TRUE(events.is_array());
    std::vector<Slice> slices;
    std::map<int64_t, std::vector<Slice>> begun;  // by thread
    std::set<int64_t> named;
    for (size_t index = 0; index < events.size(); ++index) {
        const json &event = events[index];
        check_required_keys(event);
        EXPECT_EQ(event.at("pid"), events[0].at("pid"));
        const std::string phase = event["ph"];
        const int64_t tid = event["tid"];
        if (phase == "M" && event["name"] == "thread_name") named.insert(tid);
        if (phase == "X" || phase == "B" || phase == "E") {
            EXPECT_EQ(named.count(tid), 1u) << event;
        }
        if (phase == "X") {
            const int64_t begin = ns_of(event["ts"]);
            slices.push_back({begin, begin + ns_of(event["dur"]), event["name"], tid, event["args"], index});
        } else if (phase == "B") {
            begun[tid].push_back({ns_of(event["ts"]), 0, event["name"], tid, event["args"], index});
        } else if (phase == "E") {
            if (begun[tid].empty()) {
                ADD_FAILURE() << "an end without a begin: " << event;
                continue;
            }
            Slice slice = begun[tid].back();
            begun[tid].pop_back();
            slice.end = ns_of(event["ts"]);
            EXPECT_EQ(slice.name, event["name"]);
            EXPECT_GE(slice.end, slice.begin);
            slices.push_back(slice);
        }
    }
    size_t left = 0;
    for (const auto &[tid, stack] : begun) left += stack.size();
    EXPECT_EQ(left, size_t(n_open));
    std::sort(slices.begin(), slices.end());
    return slices;
}

// Slices of one thread lie side by side or one in the other.
void check_nesting(const std::vector<Slice> &slices) {
    std::map<int64_t, std::vector<Slice>> around;
    for (const Slice &slice : slices) {
        std::vector<Slice> &stack = around[slice.tid];
        while (!stack.empty() && stack.back().end <= slice.begin) stack.pop_back();
        if (!stack.empty()) {
            EXPECT_LE(slice.end, stack.back().end) << slice.name << " in " << stack.back().name;
        }
        stack.push_back(slice);
    }
}

const Slice &find(const std::vector<Slice> &slices, const std::string &name, int nth = 0) {
    for (const Slice &slice : slices) {
        if (slice.name == name && nth-- == 0) return slice;
    }
    ADD_FAILURE() << "no slice " << name;
    static const Slice none = {};
    return none;
}

size_t count(const std::vector<Slice> &slices, const std::string &name) {
    return size_t(std::count_if(slices.begin(), slices.end(), [&](const Slice &slice) { return slice.name == name; }));
}

class Timeline : public test::FolderTest {
protected:
    void TearDown() override {
        unsetenv("BITNET_TRACE_DIR");
        FolderTest::TearDown();
    }
    fs::path path() const { return folder / "a.json"; }
    std::string config() const { return "path=" + path().string(); }
    const std::vector<float> x = std::vector<float>(8, 1.0f);
    bitnet_status_t show(Attachment &sink, int32_t stage, const char *name, int32_t layer, uint64_t end, uint64_t ns) {
        bitnet_tensor_event_t event = rows_of(stage, name, layer, 0, x, 1);
        event.ns = ns;
        sink.now_ns = end;
        return sink.tensor(event);
    }
    void step(Attachment &sink, uint64_t begin) {
        sink.now_ns = begin;
        sink.begin_step(0, {1});
        show(sink, BITNET_STAGE_EMBEDDINGS, "embeddings", -1, begin + 100, 50);
        show(sink, BITNET_STAGE_ATTN_NORM, "attn_norm", 0, begin + 300, 150);
        show(sink, BITNET_STAGE_FFN_OUT, "ffn_out", 0, begin + 500, 200);
        show(sink, BITNET_STAGE_ATTN_NORM, "attn_norm", 1, begin + 700, 100);
        show(sink, BITNET_STAGE_LOGITS, "logits", -1, begin + 1234567, 1000000);
        sink.now_ns = begin + 2000000;
        sink.end_step(0, {1});
    }
};

TEST_F(Timeline, SlicesAreWhereTheTimeWent) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config()), BITNET_OK) << sink.last_log();
    EXPECT_FALSE(fs::exists(path()));
    sink.begin_run();
    step(sink, 7000000000);
    step(sink, 7100000000);
    sink.end_run();
    sink.close();
    const json events = json::parse(read_bytes(path()));
    const std::vector<Slice> slices = check_and_pair(events);
    check_nesting(slices);
    EXPECT_EQ(slices.size(), 2u * (1 + 5 + 2));
    EXPECT_EQ(events[0]["pid"], getpid());
    EXPECT_EQ(events[0]["args"]["name"], "test-engine 9.9");
    const int64_t base = 7100000000;
    const std::tuple<const char *, int, int64_t, int64_t> expected[] = {
        {"decode", 1, 0, 2000000},  {"embeddings", 1, 50, 100},     {"blk 0", 1, 150, 500},
        {"attn_norm", 2, 150, 300}, {"ffn_out", 1, 300, 500},       {"blk 1", 1, 600, 700},
        {"attn_norm", 3, 600, 700}, {"logits", 1, 234567, 1234567},
    };
    for (const auto &[name, nth, begin, end] : expected) {
        const Slice &slice = find(slices, name, nth);
        EXPECT_EQ(slice.begin, base + begin) << name;
        EXPECT_EQ(slice.end, base + end) << name;
        EXPECT_EQ(slice.tid, gettid());
    }
    EXPECT_EQ(find(slices, "ffn_out").args,
              json::parse(R"({"layer":0,"position":0,"n_rows":1,"bytes":32,"kernel":"test.kernel","ns":200})"));
    EXPECT_EQ(find(slices, "blk 1").args, json::parse(R"({"layer":1})"));
    EXPECT_EQ(find(slices, "decode").args, json::parse(R"({"position":0,"n_tokens":1})"));
    const auto run = std::find_if(events.begin(), events.end(), [](const json &e) { return e["ph"] == "i"; });
    ASSERT_NE(run, events.end());
    EXPECT_EQ((*run)["args"]["model_path"], "/models/\"tiny\".gguf");
    EXPECT_EQ((*run)["args"]["model_hash"], "00ff");
    const auto end =
        std::find_if(events.begin(), events.end(), [](const json &e) { return e["ph"] == "E" && e["cat"] == "step"; });
    EXPECT_EQ((*end)["args"], json::parse(R"({"status":0,"stages_ns":1000500})"));
}

// An engine that tells longer times than passed: the slice is cut, its argument is not.
TEST_F(Timeline, TimesThatOverlapAreCut) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config()), BITNET_OK);
    sink.begin_run();
    sink.now_ns = 1000;
    sink.begin_step(0, {1, 2});
    show(sink, BITNET_STAGE_Q_PROJ, "q_proj", 0, 2000, 5000);
    show(sink, BITNET_STAGE_K_PROJ, "k_proj", 0, 2500, 900);
    show(sink, BITNET_STAGE_V_PROJ, "v_proj", 0, 2400, 10);  // even a clock that goes back
    sink.now_ns = 3000;
    sink.end_step(0, {1, 2});
    sink.close();
    const std::vector<Slice> slices = check_and_pair(json::parse(read_bytes(path())));
    check_nesting(slices);
    EXPECT_EQ(find(slices, "q_proj").begin, 1000);
    EXPECT_EQ(find(slices, "q_proj").args["ns"], 5000);
    EXPECT_EQ(find(slices, "k_proj").begin, 2000);
    EXPECT_EQ(find(slices, "k_proj").end, 2500);
    EXPECT_EQ(find(slices, "v_proj").begin, find(slices, "v_proj").end);
    EXPECT_EQ(find(slices, "prefill").begin, 1000);
}

// Rows 0, 2 and 4 of one computation come as three events with the same time.
TEST_F(Timeline, GroupsOfRowsAreOneSlice) {
    test::Host host;
    ASSERT_EQ(trace_host_load_plugin(host.host, kPlugin.c_str(), config().c_str(), host.error), BITNET_OK)
        << host.error;
    ASSERT_EQ(trace_host_select(host.host, "{0;2;4}:*:*", host.error), BITNET_OK) << host.error;
    const int32_t tokens[] = {1, 2, 3, 4, 5};
    host.begin_run({1, 2, 3, 4, 5});
    trace_host_begin_step(host.host, 0, tokens, 5);
    std::vector<float> values(5 * 16);
    for (int32_t layer = 0; layer < 3; ++layer) {
        host.tensor(BITNET_STAGE_ATTN_NORM, layer, 0, values, 5);
        host.tensor(BITNET_STAGE_FFN_OUT, layer, 0, values, 5);
    }
    trace_host_end_step(host.host, BITNET_OK);
    trace_host_detach_all(host.host);
    const std::vector<Slice> slices = check_and_pair(json::parse(read_bytes(path())));
    check_nesting(slices);
    EXPECT_EQ(slices.size(), 1u + 3 + 6);
    EXPECT_EQ(find(slices, "ffn_out").args["n_rows"], 3);
    EXPECT_EQ(find(slices, "ffn_out").args["bytes"], 3 * 64);
}

// A prompt in two batches goes through every block twice.
TEST_F(Timeline, EachBatchHasItsOwnBlocks) {
    test::Host host;
    ASSERT_EQ(trace_host_load_plugin(host.host, kPlugin.c_str(), config().c_str(), host.error), BITNET_OK);
    const int32_t tokens[] = {1, 2, 3, 4};
    host.begin_run({1, 2, 3, 4});
    trace_host_begin_step(host.host, 0, tokens, 4);
    std::vector<float> values(2 * 16);
    for (uint32_t batch = 0; batch < 2; ++batch) {
        host.tensor(BITNET_STAGE_ATTN_NORM, 0, int32_t(2 * batch), values, 2, 2 * batch);
        host.tensor(BITNET_STAGE_FFN_OUT, 0, int32_t(2 * batch), values, 2, 2 * batch);
    }
    trace_host_end_step(host.host, BITNET_OK);
    trace_host_detach_all(host.host);
    const std::vector<Slice> slices = check_and_pair(json::parse(read_bytes(path())));
    check_nesting(slices);
    EXPECT_EQ(count(slices, "blk 0"), 2u);
    EXPECT_EQ(count(slices, "ffn_out"), 2u);
    EXPECT_EQ(find(slices, "ffn_out", 1).args["position"], 2);
}

TEST_F(Timeline, CountersOfTheCache) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config()), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    bitnet_kv_event_t event = {};
    event.kv.struct_size = sizeof event.kv;
    event.kv.n_valid = 3;
    event.kv.n_bytes = 1000;
    event.kv.n_bytes_used = 300;
    sink.now_ns += 77;
    EXPECT_EQ(sink.deliver(&event.header, BITNET_EVENT_KV_STATE, sizeof event), BITNET_OK);
    sink.end_step(0, {1});
    sink.close();
    const json events = json::parse(read_bytes(path()));
    check_and_pair(events);
    std::map<std::string, json> counters;
    for (const json &e : events) {
        if (e["ph"] != "C") continue;
        counters[e["name"]] = e["args"];
        EXPECT_EQ(ns_of(e["ts"]), 5000000077);
    }
    EXPECT_EQ(counters["KV cache bytes"], json::parse(R"({"used":300,"free":700})"));
    EXPECT_EQ(counters["KV cache positions"], json::parse(R"({"held":3})"));
    EXPECT_EQ(counters.size(), 2u);
}

// The array format may lack its last ']', no more than that.
TEST_F(Timeline, AKilledProcessLeavesAFileThatReads) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = fork();
    if (child == 0) {
        Attachment sink(kPlugin);
        sink.open(config());
        sink.begin_run();
        step(sink, 1000000000);
        step(sink, 2000000000);
        sink.begin_step(0, {1});
        for (int i = 0; i < 2000; ++i) show(sink, 0, "more", 0, 3000000000 + uint64_t(i), 1);
        if (write(ready[1], "x", 1) == 1) pause();
        _exit(1);
    }
    char byte;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ::close(ready[0]);
    ::close(ready[1]);
    const std::string text = read_bytes(path());
    EXPECT_EQ(text.back(), '\n');
    EXPECT_THROW(json::parse(text), json::parse_error);
    const std::vector<Slice> slices = check_and_pair(json::parse(text + "]"), 2);
    EXPECT_EQ(count(slices, "decode"), 2u);
    EXPECT_GT(count(slices, "more"), 200u);  // whole chunks of it
}

TEST_F(Timeline, ACutWriteLeavesWholeLines) {
    const pid_t child = fork();
    if (child == 0) {
        const rlimit limit = {3000, 3000};
        setrlimit(RLIMIT_FSIZE, &limit);
        Attachment sink(kPlugin);
        sink.open(config());
        sink.begin_run();
        bitnet_status_t status = BITNET_OK;
        for (uint64_t i = 0; i < 20 && status == BITNET_OK; ++i) {
            sink.begin_step(0, {1});
            status = show(sink, 0, "stage", 0, 6000000000 + i, 1);
            if (status == BITNET_OK) status = sink.end_step(0, {1});
        }
        const bool told = sink.last_log() == "cannot write to '" + path().string() + "': File too large";
        sink.close();
        _exit(status == BITNET_E_IO && told ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    const std::string text = read_bytes(path());
    EXPECT_GT(text.size(), 1000u);
    EXPECT_EQ(text.back(), '\n');
    EXPECT_NO_THROW(json::parse(text + "]"));
}

TEST_F(Timeline, PathsThatFail) {
    const std::pair<const char *, const char *> cases[] = {
        {"/nonexistent/a.json", "cannot open '/nonexistent/a.json': No such file or directory"},
        {"/dev/full", "cannot write to '/dev/full': No space left on device"},
    };
    for (const auto &[file, reason] : cases) {
        Attachment sink(kPlugin);
        ASSERT_EQ(sink.open(std::string("path=") + file), BITNET_OK);
        sink.begin_run();
        sink.begin_step(0, {1});
        EXPECT_EQ(sink.end_step(0, {1}), BITNET_E_IO);
        EXPECT_EQ(sink.last_log(), reason);
    }
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config()), BITNET_OK);
    sink.begin_run();
    step(sink, 6000000000);
    fs::remove(path());
    sink.begin_step(0, {1});
    EXPECT_EQ(sink.end_step(0, {1}), BITNET_E_IO);
    EXPECT_NE(sink.last_log().find(path().string()), std::string::npos) << sink.last_log();
    for (const auto &[bad, reason] : {std::pair<std::string, std::string>{
                                          "dir=x", "unknown configuration 'dir=x', expected path=FILE with %p for the "
                                                   "process id (%, is a comma)"},
                                      {"path=", "path is empty"},
                                      {"path=a%q", "unknown '%q', expected %p, %%, %, or %;"}}) {
        Attachment declined(kPlugin);
        EXPECT_EQ(declined.open(bad), BITNET_E_INVALID) << bad;
        EXPECT_NE(declined.last_log().find(reason), std::string::npos) << declined.last_log();
    }
}

TEST_F(Timeline, PathsFromElsewhere) {
    const pid_t child = fork();  // the working folder belongs to the whole process
    if (child == 0) {
        fs::create_directory(folder / "100%");
        fs::create_directory(folder / "other");
        bool ok = chdir((folder / "100%").c_str()) == 0;
        Attachment named(kPlugin), plain(kPlugin);
        ok = ok && named.open("path=x%,y.json") == BITNET_OK && plain.open("") == BITNET_OK;
        ok = ok && chdir((folder / "other").c_str()) == 0;
        named.begin_run();
        plain.begin_run();
        _exit(ok && named.table->flush(named.state) == BITNET_OK && plain.table->flush(plain.state) == BITNET_OK ? 0
                                                                                                                 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_TRUE(fs::exists(folder / "100%/x,y.json"));
    EXPECT_TRUE(fs::exists(folder / "100%" / ("bitnet-" + std::to_string(child) + ".trace.json")));
    EXPECT_TRUE(fs::is_empty(folder / "other"));
}

TEST_F(Timeline, DefaultPathsAreNotReplaced) {
    setenv("BITNET_TRACE_DIR", folder.c_str(), 1);
    for (int i = 0; i < 2; ++i) {
        Attachment sink(kPlugin);
        ASSERT_EQ(sink.open(""), BITNET_OK) << sink.last_log();
        sink.begin_run();
        step(sink, 6000000000);
    }
    EXPECT_EQ(test::names_in(folder).size(), 2u);
    for (const std::string &name : test::names_in(folder)) {
        EXPECT_EQ(name.rfind("bitnet-" + std::to_string(getpid()), 0), 0u) << name;
        check_and_pair(json::parse(read_bytes(folder / name)));
    }
}

TEST_F(Timeline, AForkedChildWritesNothing) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config()), BITNET_OK);
    sink.begin_run();
    step(sink, 6000000000);
    sink.begin_step(0, {1});
    const std::string before = read_bytes(path());
    const pid_t child = fork();
    if (child == 0) {
        const bool refused = show(sink, 0, "child", 0, 7000000000, 1) == BITNET_E_UNSUPPORTED;
        sink.close();
        _exit(refused ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_EQ(read_bytes(path()), before);
    sink.now_ns = 8000000000;
    sink.end_step(0, {1});
    sink.close();
    EXPECT_EQ(count(check_and_pair(json::parse(read_bytes(path()))), "decode"), 2u);
}

// One context that moves between threads, and two contexts at once with one path.
TEST_F(Timeline, Threads) {
    {
        Attachment sink(kPlugin);
        ASSERT_EQ(sink.open(config()), BITNET_OK);
        sink.begin_run();
        step(sink, 6000000000);
        std::thread([&] { step(sink, 7000000000); }).join();
    }
    std::set<int64_t> threads;
    for (const Slice &slice : check_and_pair(json::parse(read_bytes(path())))) threads.insert(slice.tid);
    EXPECT_EQ(threads.size(), 2u);

    Attachment first(kPlugin), second(kPlugin);
    ASSERT_EQ(first.open(config()), BITNET_OK);
    ASSERT_EQ(second.open(config()), BITNET_OK);
    std::vector<std::thread> running;
    for (Attachment *sink : {&first, &second}) {
        running.emplace_back([this, sink] {
            sink->begin_run();
            for (uint64_t i = 0; i < 200; ++i) step(*sink, 6000000000 + i * 3000000);
            sink->end_run();
        });
    }
    for (std::thread &thread : running) thread.join();
    first.close();
    second.close();
    for (const char *name : {"a.json", "a-1.json"}) {
        const std::vector<Slice> slices = check_and_pair(json::parse(read_bytes(folder / name)));
        EXPECT_EQ(count(slices, "decode"), 200u) << name;
        check_nesting(slices);
    }
}

}  // namespace
}  // namespace bitnet
