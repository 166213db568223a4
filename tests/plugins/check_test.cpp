// The check sink: traces that the jsonl sink wrote, compared with runs that are the same, or differ in a known way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/plugins/fixture.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Host;
using Values = std::vector<float>;

constexpr size_t kElements = 200;

// Rows of three stages of two layers at three positions, two of them in the first step.
struct Engine {
    std::vector<int32_t> tokens = {7, 8, 9};
    int n_layers = 2;
    std::function<void(int position, int layer, int stage, Values &row)> change;

    static Values row(int position, int layer, int stage) {
        Values values(kElements);
        for (size_t i = 0; i < values.size(); ++i)
            values[i] = float(std::sin(double(i) * 0.37 + position) * (layer + 2) + stage * 0.125);
        return values;
    }
    void step(Host &host, int position, int n_rows) const {
        trace_host_begin_step(host.host, position, tokens.data() + position, uint64_t(n_rows));
        for (int layer = 0; layer < n_layers; ++layer) {
            for (int stage : {BITNET_STAGE_ATTN_NORM, BITNET_STAGE_Q_PROJ, BITNET_STAGE_FFN_OUT}) {
                Values rows;
                for (int r = 0; r < n_rows; ++r) {
                    Values one = row(position + r, layer, stage);
                    if (change) change(position + r, layer, stage, one);
                    rows.insert(rows.end(), one.begin(), one.end());
                }
                host.tensor(stage, layer, position, rows, uint32_t(n_rows));
            }
        }
        trace_host_end_step(host.host, BITNET_OK);
    }
    void evaluate(Host &host) const {
        host.begin_run({tokens.begin(), tokens.begin() + 2});
        step(host, 0, 2);
        step(host, 2, 1);
    }
};
constexpr uint64_t kRows = 3 * 2 * 3;

class Check : public testing::Test {
protected:
    fs::path folder_;

    void SetUp() override {
        char name[] = "/tmp/bitnet-check-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder_ = name;
    }
    void TearDown() override { fs::remove_all(folder_); }

    std::string path(const std::string &name) const { return (folder_ / name).string(); }

    void load(Host &host, const char *plugin, const std::string &config) const {
        const std::string file = std::string(PLUGIN_DIRECTORY) + "/lib" + plugin + ".so";
        ASSERT_EQ(trace_host_load_plugin(host.host, file.c_str(), config.c_str(), host.error), BITNET_OK) << host.error;
    }

    std::string record(const Engine &run = {}, const std::string &name = "trace.jsonl", int n_runs = 1) const {
        Host host;
        load(host, "jsonl", "path=" + path(name));
        for (int i = 0; i < n_runs; ++i) {
            run.evaluate(host);
            EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK);
        }
        trace_host_detach_all(host.host);
        EXPECT_EQ(host.stats().n_failures, 0u);
        return path(name);
    }

    static std::vector<json> read(const std::string &file) {
        std::ifstream in(file);
        std::vector<json> records;
        for (std::string line; std::getline(in, line);) records.push_back(json::parse(line));
        return records;
    }
    static void write(const std::string &file, const std::vector<json> &records) {
        std::ofstream out(file);
        for (const json &r : records) out << r.dump() << "\n";
    }
    static std::string hash_of(const std::string &file, int position, int layer, const char *stage) {
        for (const json &r : read(file)) {
            if (r.at("record") == "tensor" && r.at("seq") == position && r.at("layer") == layer &&
                r.at("stage") == stage)
                return r.at("blake3");
        }
        return "";
    }

    // What the host logged, without the sink's name in front.
    static std::vector<std::string> said() {
        std::vector<std::string> lines;
        for (const std::string &line : test::logged()) {
            const std::string mark = "sink 'check': ", own = "sink 'check': flush failed: ";
            if (line.rfind(own, 0) == 0 || line.rfind(mark, 0) != 0) continue;
            lines.push_back(line.substr(mark.size()));
        }
        return lines;
    }

    // One live run against the trace; the status of its end.
    bitnet_status_t check(const Engine &run, const std::string &config, Host &host) const {
        load(host, "check", config);
        run.evaluate(host);
        return trace_host_end_run(host.host);
    }
};

TEST_F(Check, TheSameRunMatches) {
    const std::string trace = record();
    Host host;
    EXPECT_EQ(check({}, "trace=" + trace + ",report=" + path("out.json"), host), BITNET_OK);
    EXPECT_EQ(host.stats().n_failures, 0u);
    EXPECT_EQ(host.stats().n_sinks, 1u);
    EXPECT_EQ(said(), (std::vector<std::string>{"18 rows compared, 18 equal and 0 within the tolerance; 0 not in the "
                                                "trace, 0 of the trace not reached"}));
    const json report = read(path("out.json")).at(0);
    EXPECT_EQ(report.at("verdict"), "match");
    EXPECT_EQ(report.at("compared"), kRows);
    EXPECT_EQ(report.at("equal"), kRows);
    EXPECT_EQ(report.at("first_divergence"), nullptr);
    EXPECT_EQ(report.at("tolerance"), nullptr);
    EXPECT_FALSE(fs::exists(path("out.json.part")));
}

TEST_F(Check, ASingleValueIsNamedWhereverItStands) {
    const std::string trace = record();
    Engine live;
    live.change = [](int position, int layer, int stage, Values &row) {
        if (position == 1 && layer == 1 && stage == BITNET_STAGE_Q_PROJ) row[123] = 0.0625f;
    };
    const float before = Engine::row(1, 1, BITNET_STAGE_Q_PROJ)[123];
    const std::string found = hash_of(record(live, "live.jsonl"), 1, 1, "q_proj");
    Host host;
    EXPECT_EQ(check(live, "trace=" + trace + ",report=" + path("out.json"), host), BITNET_E_PLUGIN);
    char text[300];
    double l2 = 0;
    for (float v : Engine::row(1, 1, BITNET_STAGE_Q_PROJ)) l2 += double(v) * v;
    snprintf(text, sizeof text,
             "first divergence at position 1, layer 1, stage q_proj: blake3 %s, expected %s; a single value; [123] "
             "0.0625, expected %.9g; rel. L2 %.3g",
             found.substr(0, 12).c_str(), hash_of(trace, 1, 1, "q_proj").substr(0, 12).c_str(), double(before),
             std::abs(0.0625 - double(before)) / std::sqrt(l2));
    ASSERT_EQ(said().size(), 2u);
    EXPECT_EQ(said()[0], text);
    EXPECT_EQ(said()[1],
              "differs from the trace first at position 1, layer 1, stage q_proj; 1 of 18 rows differ; 0 not "
              "in the trace, 0 of the trace not reached");
    EXPECT_EQ(host.stats().n_failures, 1u);
    EXPECT_EQ(host.stats().last_failure, "sink 'check': flush failed: " + said()[1]);
    const json report = read(path("out.json")).at(0), first = report.at("first_divergence");
    EXPECT_EQ(report.at("verdict"), "divergence");
    EXPECT_EQ(report.at("different"), 1);
    EXPECT_EQ(first.at("seq"), 1);
    EXPECT_EQ(first.at("layer"), 1);
    EXPECT_EQ(first.at("stage"), "q_proj");
    EXPECT_EQ(first.at("found").at("blake3"), found);
    ASSERT_EQ(first.at("values").size(), 1u);
    EXPECT_EQ(first.at("values").at(0).at("index"), 123);
    EXPECT_FLOAT_EQ(first.at("values").at(0).at("expected").get<float>(), before);
    EXPECT_EQ(first.at("single_value"), true);
}

// Rows of one event come one after another, but a stage of the first row comes before the next stage of any.
TEST_F(Check, TheFirstIsTheFirstInExecutionOrder) {
    const std::string trace = record();
    Engine live;
    live.change = [](int position, int layer, int stage, Values &row) {
        if (position == 0 && layer == 1) row[0] += 1;
        if (position == 1 && layer == 0 && stage == BITNET_STAGE_FFN_OUT) row[0] += 1;
    };
    Host host;
    EXPECT_EQ(check(live, "trace=" + trace, host), BITNET_E_PLUGIN);
    EXPECT_EQ(said()[0].substr(0, 57), "first divergence at position 1, layer 0, stage ffn_out: b");
    EXPECT_EQ(said()[1].substr(0, 100).find("4 of 18 rows differ") != std::string::npos, true) << said()[1];
}

TEST_F(Check, LargeValuesNonFiniteValuesAndOtherOrders) {
    const std::string trace = record();
    struct Case {
        std::function<void(Values &)> change;
        std::vector<std::string> texts;
    };
    const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    const Case cases[] = {
        {[](Values &row) { row[3] = 100, row[150] = -50.5f, row[9] = 0; },
         {"; [3] 100, expected at most ", "; [150] -50.5, expected at most ", "; absmax 100, expected ", "; rel. L2 "}},
        {[=](Values &row) { row[5] = row[6] = nan, row[7] = -infinity; },
         {"; NaN 2, expected 0", "; Inf 1, expected 0"}},
        {[](Values &row) { std::reverse(row.begin(), row.end()); }, {"; the same values in another order"}},
        {[](Values &row) { row.resize(kElements - 1); }, {"; 199 values of F32, expected 200 of F32"}},
    };
    for (const Case &one : cases) {
        Engine live;
        live.change = [&](int position, int layer, int stage, Values &row) {
            // The step of one row: its size may differ.
            if (position == 2 && layer == 0 && stage == BITNET_STAGE_FFN_OUT) one.change(row);
        };
        Host host;
        EXPECT_EQ(check(live, "trace=" + trace + ",tolerance=1e9", host),
                  one.texts[0].find("at most") != std::string::npos || one.texts[0].find("order") != std::string::npos
                      ? BITNET_OK
                      : BITNET_E_PLUGIN)
            << one.texts[0];
        trace_host_detach_all(host.host);
        test::logged().clear();
        EXPECT_EQ(check(live, "trace=" + trace, host), BITNET_E_PLUGIN);
        ASSERT_EQ(said().size(), 2u);
        EXPECT_EQ(said()[0].substr(0, 47), "first divergence at position 2, layer 0, stage ");
        for (const std::string &text : one.texts)
            EXPECT_NE(said()[0].find(text), std::string::npos) << said()[0] << " lacks " << text;
        EXPECT_LE(said()[0].size(), 255u);
    }
}

TEST_F(Check, ToleranceIsRelativeL2) {
    const std::string trace = record();
    double l2 = 0;
    for (float v : Engine::row(0, 0, BITNET_STAGE_ATTN_NORM)) l2 += double(v) * v;
    Engine live;  // one value: the estimate is then exact
    live.change = [&](int position, int layer, int stage, Values &row) {
        if (position == 0 && layer == 0 && stage == BITNET_STAGE_ATTN_NORM) row[50] += float(1e-3 * std::sqrt(l2));
    };
    Host within;
    EXPECT_EQ(check(live, "trace=" + trace + ",tolerance=1.01e-3", within), BITNET_OK);
    EXPECT_EQ(said().back(),
              "18 rows compared, 17 equal and 1 within the tolerance; 0 not in the trace, 0 of the trace "
              "not reached");
    Host outside;
    EXPECT_EQ(check(live, "tolerance=0.99e-3,trace=" + trace, outside), BITNET_E_PLUGIN);
    EXPECT_EQ(said()[0].substr(said()[0].rfind("; ")), "; rel. L2 0.001");
}

TEST_F(Check, WhatRunsMustShareIsSaidBeforeAnyNumber) {
    const std::string trace = record();
    struct Case {
        const char *key;
        json value;
        std::string text;
        bool is_mismatch;
    };
    const std::string none(64, '0');
    const Case cases[] = {
        {"/model_hash", none, "preflight: model_hash is 00ff, " + none + " in the trace", true},
        {"/hyperparameters/n_layer", 26, "preflight: hyperparameters.n_layer is 4, 26 in the trace", true},
        {"/hyperparameters/eps", 1e-6, "preflight: hyperparameters.eps is 1e-05, 1e-06 in the trace", true},
        {"/semantics/activation", "silu", "preflight: semantics.activation is relu2, silu in the trace", false},
        {"/kv_type", "f16", "preflight: kv_type is f32, f16 in the trace", false},
    };
    for (const Case &one : cases) {
        std::vector<json> records = read(trace);
        records[0][json::json_pointer(one.key)] = one.value;
        write(path("other.jsonl"), records);
        Host host;
        EXPECT_EQ(check({}, "trace=" + path("other.jsonl") + ",report=" + path("out.json"), host),
                  one.is_mismatch ? BITNET_E_PLUGIN : BITNET_OK);
        ASSERT_EQ(said().size(), 2u) << one.text;
        EXPECT_EQ(said()[0], one.text);
        const json report = read(path("out.json")).at(0);
        EXPECT_EQ(report.at("verdict"), one.is_mismatch ? "mismatch" : "match");
        EXPECT_EQ(report.at("preflight"), json{one.text});
        if (!one.is_mismatch) continue;
        EXPECT_EQ(said()[1], "not comparable: " + one.text.substr(0, 150) + "; 0 of 18 rows differ");
    }
    // The same number written otherwise, and a trace that does not know, are no difference.
    std::vector<json> records = read(trace);
    records[0]["hyperparameters"]["eps"] = 0.00001;
    records[0]["semantics"] = json::object();
    records[0]["model_hash"] = nullptr;
    write(path("other.jsonl"), records);
    Host host;
    EXPECT_EQ(check({}, "trace=" + path("other.jsonl"), host), BITNET_OK);
    EXPECT_EQ(said().size(), 1u);
}

TEST_F(Check, AnotherTokenIsSaidBeforeItsRows) {
    const std::string trace = record();
    Engine live;
    live.tokens = {7, 8, 1};
    live.change = [](int position, int, int, Values &row) { row[0] += float(position == 2); };
    Host host;
    EXPECT_EQ(check(live, "trace=" + trace, host), BITNET_E_PLUGIN);
    ASSERT_EQ(said().size(), 3u);
    EXPECT_EQ(said()[0], "preflight: token 1 at position 2, 9 in the trace");
    EXPECT_EQ(said()[1].substr(0, 56), "first divergence at position 2, layer 0, stage attn_norm");
    EXPECT_EQ(said()[2], "not comparable: preflight: token 1 at position 2, 9 in the trace; 6 of 18 rows differ");
}

TEST_F(Check, StopAsksTheHost) {
    const std::string trace = record();
    Engine live;
    live.change = [](int, int layer, int, Values &row) { row[0] += float(layer == 1); };
    Host host;
    load(host, "check", "trace=" + trace + ",stop=1");
    host.begin_run({7, 8});
    trace_host_begin_step(host.host, 0, live.tokens.data(), 2);
    Values same = Engine::row(0, 0, BITNET_STAGE_ATTN_NORM);
    host.tensor(BITNET_STAGE_ATTN_NORM, 0, 0, same, 1);
    EXPECT_EQ(trace_host_stop_reason(host.host), nullptr);
    same[1] = 77;
    host.tensor(BITNET_STAGE_Q_PROJ, 0, 0, same, 1);
    ASSERT_NE(trace_host_stop_reason(host.host), nullptr);
    EXPECT_EQ(trace_host_stop_reason(host.host), ("sink 'check': " + said()[0]).substr(0, 255));
    EXPECT_EQ(host.stats().n_sinks, 1u);  // it did not fail, it asked
    trace_host_end_step(host.host, BITNET_E_USER);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
    EXPECT_EQ(said()[1],
              "differs from the trace first at position 0, layer 0, stage q_proj; 1 of 2 rows differ; 0 not in "
              "the trace, 16 of the trace not reached");
    Host other;
    load(other, "check", "trace=" + trace + ",stop=0");
    EXPECT_EQ((live.evaluate(other), trace_host_stop_reason(other.host)), nullptr);
}

TEST_F(Check, NothingComparedIsNoSuccess) {
    const std::string trace = record();
    {
        Host host;  // other stages than the trace has
        load(host, "check", "trace=" + trace + ",report=" + path("out.json"));
        host.begin_run({7, 8});
        Values values(8);
        host.tensor(BITNET_STAGE_LOGITS, -1, 0, values, 1);
        host.tensor(BITNET_STAGE_V_PROJ, 0, 0, values, 2);
        EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
        EXPECT_STREQ(
            host.stats().last_failure,
            "sink 'check': flush failed: nothing was compared: 3 not in the trace, 18 of the trace not reached");
        EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "nothing_compared");
    }
    {
        Host host;  // no run at all: close() has no status, but it says so
        load(host, "check", "trace=" + trace + ",report=" + path("out.json"));
        EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "running");
        trace_host_detach_all(host.host);
        EXPECT_EQ(said(), (std::vector<std::string>{"nothing was compared: no run began"}));
        EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "nothing_compared");
    }
    Host host;  // a second run that the trace does not have
    EXPECT_EQ(check({}, "trace=" + trace, host), BITNET_OK);
    Engine{}.evaluate(host);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
    EXPECT_EQ(said()[1], "preflight: run 1 is not in the trace, which has 1");
    EXPECT_EQ(said()[2], "nothing was compared: 18 not in the trace, 0 of the trace not reached");
}

TEST_F(Check, PartsOfATraceAreCounted) {
    const std::string trace = record();
    Host host;  // fewer positions than recorded, more layers
    load(host, "check", "trace=" + trace);
    Engine live;
    live.n_layers = 3;
    host.begin_run({7, 8});
    live.step(host, 0, 2);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK);
    EXPECT_EQ(said().back(),
              "12 rows compared, 12 equal and 0 within the tolerance; 6 not in the trace, 6 of the trace not "
              "reached");
}

TEST_F(Check, RunsGoTogetherInTheirOrder) {
    Engine live;
    int n = 0;
    live.change = [&](int position, int layer, int stage, Values &row) {
        row[1] = float(n / int(kRows));  // another value in each run
        ++n;
    };
    const std::string trace = record(live, "runs.jsonl", 3);
    n = 0;
    Host host;
    load(host, "check", "trace=" + trace);
    for (int run = 0; run < 3; ++run) {
        live.evaluate(host);
        EXPECT_EQ(trace_host_end_run(host.host), BITNET_OK) << run;
    }
    EXPECT_EQ(said().size(), 3u);
    n = int(kRows);  // as if the first run had been left out
    Host other;
    EXPECT_EQ(check(live, "trace=" + trace, other), BITNET_E_PLUGIN);
}

TEST_F(Check, CompressedTracesAreTheSame) {
    const std::string packed = record({}, "trace.jsonl.zst");
    std::ifstream in(packed, std::ios::binary);
    std::string bytes((std::istreambuf_iterator<char>(in)), {});
    ASSERT_EQ(bytes.substr(0, 4), "\x28\xb5\x2f\xfd");
    Host host;
    EXPECT_EQ(check({}, "trace=" + packed, host), BITNET_OK);
    Engine live;
    live.change = [](int position, int, int, Values &row) { row[9] += float(position == 2); };
    Host other;
    EXPECT_EQ(check(live, "trace=" + packed, other), BITNET_E_PLUGIN);
    EXPECT_NE(said()[0].find("; a single value; [9] "), std::string::npos) << said()[0];
    for (const auto &[damaged, reason] : {std::pair(bytes.substr(0, bytes.size() / 2), ""),
                                          {bytes.substr(0, bytes.size() - 3), "cut short inside of a zstd frame"},
                                          {bytes.substr(0, 100) + "!!!!" + bytes.substr(104), ""}}) {
        std::ofstream(path("damaged.zst"), std::ios::binary) << damaged;
        Host third;
        const std::string config = "trace=" + path("damaged.zst");
        const std::string plugin = std::string(PLUGIN_DIRECTORY) + "/libcheck.so";
        EXPECT_EQ(trace_host_load_plugin(third.host, plugin.c_str(), config.c_str(), third.error), BITNET_E_PLUGIN);
        EXPECT_NE(std::string(third.error).find(reason), std::string::npos) << third.error;
    }
}

TEST_F(Check, DamagedTracesAreRefused) {
    const std::string trace = record();
    const std::vector<json> good = read(trace);
    const size_t last = good.size() - 1;
    ASSERT_EQ(good[2].at("record"), "tensor");
    std::string text;
    {
        std::ifstream in(trace);
        text.assign((std::istreambuf_iterator<char>(in)), {});
    }
    const auto edited = [&](size_t line, const char *pointer, const json &value) {
        std::vector<json> records = good;
        records[line][json::json_pointer(pointer)] = value;
        std::string out;
        for (const json &r : records) out += r.dump() + "\n";
        return out;
    };
    const auto without = [&](size_t line, const char *key) {
        std::vector<json> records = good;
        records[line].erase(key);
        std::string out;
        for (const json &r : records) out += r.dump() + "\n";
        return out;
    };
    const auto lines = [&](size_t first, size_t n) {
        std::string out;
        for (size_t i = first; i < first + n; ++i) out += good[i].dump() + "\n";
        return out;
    };
    const std::string n = std::to_string(good.size()), before = std::to_string(last);
    const std::pair<std::string, std::string> cases[] = {
        {"", "is empty: a trace begins with a run record"},
        {"\n", "line 1: not JSON: The document is empty. (byte 1)"},
        {"[1,2]\n", "line 1: a JSON object expected"},
        {"{\"a\":" + std::string(40, '[') + std::string(40, ']') + "}\n", "line 1: nested more than 16 deep"},
        {std::string("{\"a\":\"\0\"}\n", 10), "line 1: not JSON: it holds a NUL byte"},
        {"{}\n", "line 1: \"record\": run, step, tensor or run_end expected"},
        {"{\"record\":\"run\",\"record\":\"run\"}\n", "line 1: \"record\" is there twice"},
        {text.substr(0, text.size() / 2), " (the last line is cut)"},
        {lines(0, last), "cut short: run 0 has no run_end after line " + before},
        {lines(0, 3) + lines(0, 3), "line 4: the run before this one has no run_end: the trace was cut short"},
        {lines(1, last), "line 1: a record of run 0, which is not open"},
        {lines(0, 3) + lines(4, last - 3), "line " + before + ": run_end says 18 tensor records, 17 are there"},
        {lines(0, 3) + lines(2, 1) + edited(last, "/records", 19).substr(lines(0, 3).size()),
         "line 4 is a second record of what line 3 has"},
        {lines(0, 1) + edited(last, "/records", 0).substr(lines(0, last).size()),
         "has no tensor record: nothing to compare with"},
        {edited(0, "/schema", 2), "line 1: \"schema\": 2 found, 1 expected"},
        {edited(0, "/tokens", 5), "line 1: \"tokens\": an array of token ids or null expected"},
        {edited(1, "/n", 5), "line 2: \"tokens\": 2 found, \"n\" says 5"},
        {edited(2, "/blake3", "abc"), "line 3: \"blake3\": 64 hex digits expected"},
        {edited(2, "/sketch", "abc="), "line 3: \"sketch\": base64 of 64 f32 expected"},
        {edited(2, "/dtype", "F64"), "line 3: \"dtype\": F32, F16, BF16, I8 or I32 expected"},
        {edited(2, "/seq", -1), "line 3: \"seq\": a whole number, not too large, expected"},
        {edited(2, "/seq", uint64_t(1) << 40), "line 3: \"seq\" or \"layer\" is out of range"},
        {edited(2, "/layer", 1.5), "line 3: \"layer\": a layer's index expected"},
        {edited(2, "/l2", "NaN"), "line 3: \"l2\": another type of value expected"},
        {edited(2, "/l2", -1), "line 3: \"l2\": a finite number that is not negative expected"},
        {edited(2, "/top", {1, 2}), "line 3: \"top\": an array of [index, value] expected"},
        {edited(2, "/top", {{1}}), "line 3: \"top\": [index, value] expected"},
        {without(2, "multiset"), "line 3: no \"multiset\" in a tensor record"},
    };
    const std::string plugin = std::string(PLUGIN_DIRECTORY) + "/libcheck.so";
    for (const auto &[content, reason] : cases) {
        std::ofstream(path("bad.jsonl"), std::ios::binary) << content;
        Host host;
        const std::string config = "trace=" + path("bad.jsonl");
        EXPECT_EQ(trace_host_load_plugin(host.host, plugin.c_str(), config.c_str(), host.error), BITNET_E_PLUGIN)
            << reason;
        const std::string front = "plugin 'libcheck.so': open failed: trace '" + path("bad.jsonl") + "': ";
        EXPECT_EQ(std::string(host.error).substr(0, front.size()), front);
        if (reason[0] == ' ') {
            EXPECT_NE(std::string(host.error).find(reason), std::string::npos) << host.error;
        } else {
            EXPECT_EQ(host.error, front + reason);
        }
    }
}

TEST_F(Check, ConfigurationsThatCannotWork) {
    const std::string trace = record();
    mkfifo(path("pipe").c_str(), 0600);
    const std::string plugin = std::string(PLUGIN_DIRECTORY) + "/libcheck.so";
    const std::string expected = ", expected trace=FILE, tolerance=NUMBER, stop=0 or 1, report=FILE";
    const std::pair<std::string, std::string> cases[] = {
        {"", "no trace to compare with: trace=FILE expected"},
        {"path=x", "unknown configuration 'path=x'" + expected},
        {"trace=" + trace + ",stop=yes", "unknown configuration 'stop=yes'" + expected},
        {"trace=" + trace + ",tolerance=-1", "tolerance: '-1' found, a number that is not negative expected"},
        {"trace=" + trace + ",tolerance=nan", "tolerance: 'nan' found, a number that is not negative expected"},
        {"trace=", "path is empty"},
        {"trace=/no/such/file.jsonl", "trace '/no/such/file.jsonl': No such file or directory"},
        {"trace=" + folder_.string(), "trace '" + folder_.string() + "': is not a regular file"},
        {"trace=" + path("pipe"), "trace '" + path("pipe") + "': is not a regular file"},
        {"report=/no/such/folder/x.json,trace=" + trace,
         "cannot write the report '/no/such/folder/x.json': No such file or directory"},
    };
    for (const auto &[config, reason] : cases) {
        Host host;
        EXPECT_EQ(trace_host_load_plugin(host.host, plugin.c_str(), config.c_str(), host.error), BITNET_E_PLUGIN);
        EXPECT_EQ(host.error, "plugin 'libcheck.so': open failed: " + reason);
    }
}

// The trace stays open and the report's path whole, wherever the process goes.
TEST_F(Check, RelativePathsOutliveAChangeOfFolder) {
    record();
    fs::create_directory(path("elsewhere"));
    const fs::path before = fs::current_path();
    fs::current_path(folder_);
    Host host;
    load(host, "check", "trace=trace.jsonl,report=out.json");
    fs::current_path(folder_ / "elsewhere");
    Engine live;
    live.change = [](int position, int, int, Values &row) { row[9] += float(position == 2); };
    live.evaluate(host);
    EXPECT_EQ(trace_host_end_run(host.host), BITNET_E_PLUGIN);
    fs::current_path(before);
    EXPECT_NE(said()[0].find("; a single value; [9] "), std::string::npos) << said()[0];
    EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "divergence");
    EXPECT_TRUE(fs::is_empty(path("elsewhere")));
}

TEST_F(Check, EveryContextHasItsOwnReportAndAForkedChildNone) {
    const std::string trace = record();
    {
        Host first, second;
        load(first, "check", "trace=" + trace + ",report=" + path("out.json"));
        load(second, "check", "trace=" + trace + ",report=" + path("out.json"));
        Engine{}.evaluate(second);
        EXPECT_EQ(trace_host_end_run(second.host), BITNET_OK);
        EXPECT_EQ(read(path("out-1.json")).at(0).at("verdict"), "match");
        EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "running");
        const pid_t child = fork();
        if (child == 0) {
            trace_host_detach_all(first.host);
            _exit(0);
        }
        int status = 0;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
        EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "running");
        Engine{}.evaluate(first);
        EXPECT_EQ(trace_host_end_run(first.host), BITNET_OK);
    }
    EXPECT_EQ(read(path("out.json")).at(0).at("verdict"), "match");
}

}  // namespace
}  // namespace bitnet
