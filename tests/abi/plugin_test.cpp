// Plugins through the boundary: by call and by BITNET_TRACE_PLUGIN, and what the jsonl plugin writes.
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Plugin : public testing::Test {
protected:
    const Model model_ = load();
    fs::path folder_;
    void SetUp() override {
        char name[] = "/tmp/bitnet-abi-XXXXXX";
        ASSERT_NE(mkdtemp(name), nullptr);
        folder_ = name;
    }
    void TearDown() override { fs::remove_all(folder_); }
    std::string path(const char *name) const { return (folder_ / name).string(); }

    static std::vector<json> read(const std::string &path) {
        std::ifstream file(path);
        EXPECT_TRUE(file) << path;
        std::vector<json> records;
        for (std::string line; std::getline(file, line);) records.push_back(json::parse(line));
        return records;
    }
    static std::vector<json> of_kind(const std::vector<json> &records, const char *kind) {
        std::vector<json> out;
        for (const json &record : records)
            if (record.at("record") == kind) out.push_back(record);
        return out;
    }
    static bitnet_trace_stats_t stats(bitnet_ctx_t *ctx) {
        auto out = make<bitnet_trace_stats_t>();
        EXPECT_OK(bitnet_trace_get_stats(ctx, &out));
        return out;
    }
};

TEST_F(Plugin, ByCall) {
    const Context ctx = context(model_.get());
    for (const char *name : {"null", "libnull.so"}) ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), name, nullptr));
    const std::string config = "path=" + path("a.jsonl");
    ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), "jsonl", config.c_str()));
    EXPECT_EQ(stats(ctx.get()).n_sinks, 3u);
    ASSERT_OK(bitnet_trace_select(ctx.get(), "layer_out"));
    ASSERT_OK(bitnet_trace_set_prompt(ctx.get(), "caf\xc3\xa9 \xff!", 8));
    ASSERT_OK(eval(ctx.get(), {5, 6}));
    ASSERT_OK(eval(ctx.get(), {7}));
    ASSERT_OK(bitnet_trace_end_run(ctx.get()));
    const std::vector<json> records = read(path("a.jsonl"));
    ASSERT_EQ(records.size(), 1u + 2 + 3 * n_layer + 1);
    const json &run = records.front();
    EXPECT_EQ(run.at("record"), "run");
    EXPECT_EQ(run.at("schema"), 1);
    EXPECT_EQ(run.at("selection"), "layer_out");
    EXPECT_EQ(run.at("tokens"), (json{5, 6}));
    EXPECT_EQ(run.at("prompt"), "caf\u00e9 \ufffd!");
    EXPECT_EQ(run.at("hyperparameters").at("n_layer"), n_layer);
    EXPECT_EQ(run.at("semantics").at("activation"), "relu2");
    EXPECT_EQ(run.at("isa"), bitnet_model_isa(model_.get()));
    char hash[65];
    size_t n = sizeof hash;
    ASSERT_OK(bitnet_model_hash(model_.get(), hash, &n));
    EXPECT_EQ(run.at("model_hash"), hash);
    const json &end = records.back();
    EXPECT_EQ(end.at("record"), "run_end");
    EXPECT_EQ(end.at("records"), 3 * n_layer);
    EXPECT_EQ(end.at("tokens"), 3);
    EXPECT_EQ(end.at("overridden"), false);
    EXPECT_EQ(of_kind(records, "step")[1].at("seq"), 2);
}

TEST_F(Plugin, HashesAndStatisticsAreOfTheValues) {
    Recorder recorder;
    const Context ctx = context(model_.get());
    ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &recorder.table, &recorder));
    ASSERT_OK(bitnet_trace_load_plugin(ctx.get(), "jsonl", ("path=" + path("a.jsonl")).c_str()));
    ASSERT_OK(bitnet_trace_select(ctx.get(), "*,attn_scores,*.codes,*.scale,*.acc"));
    ASSERT_OK(eval(ctx.get(), prompt(3)));
    ASSERT_OK(bitnet_trace_end_run(ctx.get()));
    const auto rows = recorder.by_key();
    const std::vector<json> tensors = of_kind(read(path("a.jsonl")), "tensor");
    ASSERT_EQ(tensors.size(), rows.size());
    std::map<std::string, int32_t> ids;
    for (int32_t stage = 0; stage < 0x400; ++stage)
        if (const char *name = bitnet_stage_name(stage)) ids[name] = stage;
    for (const json &t : tensors) {
        const auto &bytes = rows.at({t.at("seq"), t.at("layer"), ids.at(t.at("stage"))});
        const std::string dtype = t.at("dtype");
        ASSERT_EQ(bytes.size(), t.at("num_elements").get<size_t>() * (dtype == "I8" ? 1 : 4));
        if (dtype != "F32") continue;
        double sum = 0, squares = 0;
        for (const float v : floats(bytes)) {
            sum += v;
            squares += double(v) * v;
        }
        const double n = t.at("num_elements");
        const double size = std::sqrt(squares / n);
        EXPECT_NEAR(t.at("rms").get<double>(), size, 1e-8 * size) << t.at("name");
        EXPECT_NEAR(t.at("mean").get<double>(), sum / n, 1e-8 * size) << t.at("name");
    }
    // b3sum of the raw bytes, where the tool is there.
    const json &logits = tensors.back();
    ASSERT_EQ(logits.at("stage"), "logits");
    const auto &bytes = rows.at({2, -1, BITNET_STAGE_LOGITS});
    std::ofstream(path("row"), std::ios::binary)
        .write(reinterpret_cast<const char *>(bytes.data()), long(bytes.size()));
    FILE *b3sum = popen(("b3sum --no-names " + path("row") + " 2>/dev/null").c_str(), "r");
    ASSERT_NE(b3sum, nullptr);
    char line[80] = "";
    const bool answered = std::fgets(line, sizeof line, b3sum) != nullptr;
    pclose(b3sum);
    if (!answered) GTEST_SKIP() << "b3sum is not installed: nothing else to compare the hash with";
    EXPECT_EQ(logits.at("blake3"), std::string(line).substr(0, 64));
}

TEST_F(Plugin, ByEnvironmentForEveryContextWithoutALineOfCode) {
    const std::vector<float> expected = logits_after(model_.get(), prompt(4));
    const Env plugin("BITNET_TRACE_PLUGIN", "libjsonl.so:path=" + path("%p.jsonl") + ";null");
    const Env select("BITNET_TRACE_SELECT", "0-1:*:ffn_act");
    {
        const Context ctx = context(model_.get());
        EXPECT_EQ(stats(ctx.get()).n_sinks, 2u);
        ASSERT_OK(eval(ctx.get(), prompt(4)));
        EXPECT_EQ(row(ctx.get()), expected);
        bitnet_ctx_t *fork = nullptr;
        ASSERT_OK(bitnet_context_fork(ctx.get(), &fork));
        EXPECT_EQ(stats(fork).n_sinks, 0u);
        bitnet_context_free(fork);
    }
    const std::vector<json> records = read(path((std::to_string(getpid()) + ".jsonl").c_str()));
    EXPECT_EQ(records.back().at("record"), "run_end");
    EXPECT_EQ(of_kind(records, "tensor").size(), 2u * n_layer);
    for (const json &t : of_kind(records, "tensor")) EXPECT_EQ(t.at("stage"), "ffn_act");
    unsetenv("BITNET_TRACE_PLUGIN");
    EXPECT_EQ(stats(context(model_.get()).get()).n_sinks, 0u);
}

TEST_F(Plugin, FailuresNeverFailTheContext) {
    const Context plain = context(model_.get());
    expect_error(bitnet_trace_load_plugin(plain.get(), "absent", nullptr), BITNET_E_PLUGIN, {"absent"});
    expect_error(bitnet_trace_load_plugin(plain.get(), "/no/such/plugin.so", nullptr), BITNET_E_PLUGIN,
                 {"/no/such/plugin.so"});
    expect_error(bitnet_trace_load_plugin(plain.get(), "jsonl", "colour=blue"), BITNET_E_PLUGIN, {"colour"});
    expect_error(bitnet_trace_load_plugin(plain.get(), "", nullptr), BITNET_E_PLUGIN);
    EXPECT_EQ(stats(plain.get()).n_failures, 4u);
    EXPECT_EQ(stats(plain.get()).n_sinks, 0u);

    const Env env("BITNET_TRACE_PLUGIN", "absent;null;jsonl:path=/no/such/folder/a.jsonl");
    const Context ctx = context(model_.get());
    ASSERT_NE(ctx, nullptr);
    ASSERT_OK(eval(ctx.get(), {5}));
    EXPECT_EQ(stats(ctx.get()).n_sinks, 1u);  // null; a file is not made before there is something to write
    EXPECT_EQ(stats(ctx.get()).n_failures, 2u);
    EXPECT_NE(std::string(stats(ctx.get()).last_failure).find("/no/such/folder"), std::string::npos);
    const Env select("BITNET_TRACE_SELECT", "no_such_stage");
    const Context other = context(model_.get());
    ASSERT_NE(other, nullptr);
    EXPECT_EQ(stats(other.get()).n_sinks, 0u);
    EXPECT_NE(std::string(stats(other.get()).last_failure).find("no_such_stage"), std::string::npos);
}

TEST_F(Plugin, PluginPathComesFirst) {
    const Context ctx = context(model_.get());
    fs::copy_file(fs::path(PLUGIN_FOLDER) / "libnull.so", folder_ / "librenamed.so");
    expect_error(bitnet_trace_load_plugin(ctx.get(), "renamed", nullptr), BITNET_E_PLUGIN, {"renamed"});
    const Env env("BITNET_PLUGIN_PATH", "/no/such/folder:" + folder_.string());
    EXPECT_OK(bitnet_trace_load_plugin(ctx.get(), "renamed", nullptr));
    EXPECT_OK(bitnet_trace_load_plugin(ctx.get(), "null", nullptr));
}

// A full device: the write fails in the middle of a run.
TEST_F(Plugin, FullDiskDetachesTheSinkAndChangesNothing) {
    if (access("/dev/full", W_OK) != 0) GTEST_SKIP() << "no /dev/full here";
    const Context ctx = context(model_.get());
    const bitnet_status_t status = bitnet_trace_load_plugin(ctx.get(), "jsonl", "path=/dev/full");
    if (status != BITNET_OK) {
        expect_error(status, BITNET_E_PLUGIN, {"/dev/full"});
        return;
    }
    ASSERT_OK(eval(ctx.get(), prompt(4)));
    EXPECT_EQ(row(ctx.get()), logits_after(model_.get(), prompt(4)));
    bitnet_trace_end_run(ctx.get());
    EXPECT_EQ(stats(ctx.get()).n_sinks, 0u);
    EXPECT_EQ(stats(ctx.get()).n_failures, 1u);
}

}  // namespace
}  // namespace bitnet_test
