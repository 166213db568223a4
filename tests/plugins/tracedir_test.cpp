// The tracedir sink, read by the rules of BitNet-rs: crates/bitnet-trace/src/lib.rs (a file is one object, whose first
// six fields are required) and scripts/trace_diff.py (a file is lines, records are found by seq, layer and stage).
#include <map>
#include <tuple>

#include "tests/plugins/fixture.h"
#include "tests/plugins/sink_harness.h"

namespace bitnet {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using nlohmann::ordered_json;
using test::Attachment;
using test::names_in;
using test::rows_of;

const std::string kPlugin = std::string(PLUGIN_DIRECTORY) + "/libtracedir.so";

using Key = std::tuple<int, int, std::string>;

// serde's: unsigned and signed integers and f64 where the struct has them.
void check_as_object(const json &record) {
    EXPECT_TRUE(record.at("name").is_string());
    for (const json &size : record.at("shape")) EXPECT_TRUE(size.is_number_unsigned());
    EXPECT_TRUE(record.at("dtype").is_string());
    EXPECT_EQ(record.at("blake3").get<std::string>().size(), 64u);
    EXPECT_TRUE(record.at("rms").is_number());
    EXPECT_TRUE(record.at("num_elements").is_number_unsigned());
    EXPECT_TRUE(record.at("seq").is_number_unsigned());
    EXPECT_TRUE(record.at("layer").is_number_integer());
    EXPECT_TRUE(record.at("stage").is_string());
}

// *.trace of one folder, line by line.
std::map<Key, json> load_traces(const fs::path &folder) {
    std::map<Key, json> traces;
    for (const std::string &name : names_in(folder)) {
        EXPECT_EQ(fs::path(name).extension(), ".trace") << name;
        const std::string bytes = test::read_bytes(folder / name);
        check_as_object(json::parse(bytes));
        std::ifstream file(folder / name);
        int n_lines = 0;
        for (std::string line; std::getline(file, line); ++n_lines) {
            const json record = json::parse(line);
            traces[{record.at("seq"), record.at("layer"), record.at("stage")}] = record;
        }
        EXPECT_EQ(n_lines, 1) << name;
    }
    return traces;
}

class TraceDir : public test::FolderTest {
protected:
    void TearDown() override {
        unsetenv("BITNET_TRACE_DIR");
        FolderTest::TearDown();
    }
};

// A prompt of three tokens, then two decoded ones: every (position, layer, stage) is a record of its own.
void evaluate(test::Host &host) {
    const std::vector<int32_t> tokens = {5, 6, 7};
    host.begin_run(tokens);
    for (int32_t position : {0, 3, 4}) {
        const uint32_t n = position == 0 ? 3 : 1;
        std::vector<float> values(4 * n);
        for (size_t i = 0; i < values.size(); ++i) values[i] = float(position) + float(i) * 0.25f;
        trace_host_begin_step(host.host, position, tokens.data(), n);
        host.tensor(BITNET_STAGE_EMBEDDINGS, -1, position, values, n);
        host.tensor(BITNET_STAGE_ATTN_NORM, 3, position, values, n);
        host.tensor(BITNET_STAGE_LOGITS, -1, position, values, n);
        trace_host_end_step(host.host, BITNET_OK);
    }
    trace_host_end_run(host.host);
}

TEST_F(TraceDir, DecodeStepsDoNotReplaceEachOther) {
    for (const char *options : {"", ",layout=bitnet-rs"}) {
        const fs::path dir = folder / (options[0] ? "rs" : "own");
        test::Host host;
        ASSERT_EQ(
            trace_host_load_plugin(host.host, kPlugin.c_str(), ("dir=" + dir.string() + options).c_str(), host.error),
            BITNET_OK)
            << host.error;
        evaluate(host);
        EXPECT_EQ(host.stats().n_failures, 0u) << host.stats().last_failure;
        const auto traces = load_traces(dir);
        EXPECT_EQ(traces.size(), 15u);
        EXPECT_EQ(names_in(dir).size(), 15u);
        const json &record = traces.at({4, 3, "attn_norm"});
        const float values[] = {4, 4.25f, 4.5f, 4.75f};
        EXPECT_EQ(record["name"], "t4/blk3/attn_norm");
        EXPECT_EQ(record["dtype"], "F32");
        EXPECT_EQ(record["num_elements"], 4);
        EXPECT_EQ(record["shape"], json::parse(options[0] ? "[1,1,4]" : "[4]"));
        EXPECT_EQ(record["blake3"], test::blake3_hex(values, sizeof values));
        EXPECT_NEAR(record["rms"], std::sqrt((16 + 18.0625 + 20.25 + 22.5625) / 4), 1e-8);
        EXPECT_EQ((traces.at({1, -1, "logits"})["name"]), "t1/logits");
        EXPECT_EQ((traces.at({2, -1, "embeddings"})["layer"]), -1);
    }
    std::vector<std::string> expected;
    for (int seq = 0; seq < 5; ++seq) {
        for (const char *name : {"blk3_attn_norm", "embeddings", "logits"})
            expected.push_back("t" + std::to_string(seq) + "_" + name + ".trace");
    }
    EXPECT_EQ(names_in(folder / "rs"), expected);
}

TEST_F(TraceDir, NamesAreInTheOrderOfExecution) {
    setenv("BITNET_TRACE_DIR", folder.c_str(), 1);
    test::Host host;
    ASSERT_EQ(trace_host_load_plugin(host.host, kPlugin.c_str(), "", host.error), BITNET_OK) << host.error;
    evaluate(host);
    std::vector<Key> order;
    std::string prefix;
    for (const std::string &name : names_in(folder)) {
        const json record = json::parse(test::read_bytes(folder / name));
        order.push_back({record["seq"], record["layer"], record["stage"]});
        if (prefix.empty()) prefix = name.substr(0, name.find("-step"));
        EXPECT_EQ(name.rfind(prefix, 0), 0u);
    }
    std::vector<Key> expected;
    for (const std::vector<int> &seqs : {std::vector<int>{0, 1, 2}, {3}, {4}}) {
        for (int seq : seqs) expected.push_back({seq, -1, "embeddings"});
        for (int seq : seqs) expected.push_back({seq, 3, "attn_norm"});
        for (int seq : seqs) expected.push_back({seq, -1, "logits"});
    }
    EXPECT_EQ(order, expected);
    EXPECT_EQ(prefix.rfind("p" + std::to_string(getpid()) + "-run", 0), 0u) << prefix;
    EXPECT_EQ(names_in(folder)[13].substr(prefix.size()), "-step000002-000000000013-t000004-blk003-attn_norm.trace");
}

// In the order of the Rust struct, in one compact line.
TEST_F(TraceDir, TheLine) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open("dir=" + folder.string() + ",layout=bitnet-rs"), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    const std::vector<float> x = {3, 4};
    ASSERT_EQ(sink.tensor(rows_of(0, "odd/na\\me\"", 2, 0, x, 1)), BITNET_OK) << sink.last_log();
    ASSERT_EQ(names_in(folder), std::vector<std::string>{"t0_blk2_odd_na_me\".trace"});
    EXPECT_EQ(test::read_bytes(folder / "t0_blk2_odd_na_me\".trace"),
              R"({"name":"t0/blk2/odd/na\\me\"","shape":[1,1,2],"dtype":"F32","blake3":")" +
                  test::blake3_hex(x.data(), 8) +
                  R"(","rms":3.53553391,"num_elements":2,"seq":0,"layer":2,"stage":"odd/na\\me\""})" + "\n");
    EXPECT_EQ(sink.tensor(rows_of(0, std::string(250, 'n').c_str(), 2, 0, x, 1)), BITNET_E_UNSUPPORTED);
    EXPECT_NE(sink.last_log().find("is too long for a file"), std::string::npos) << sink.last_log();
}

TEST_F(TraceDir, ShapesOfBitNetRs) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open("dir=" + folder.string() + ",layout=bitnet-rs"), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    const std::vector<float> x(24, 1.0f);
    const auto show = [&](int32_t stage, const char *name) {
        bitnet_tensor_event_t event = rows_of(stage, name, 0, 0, x, 1);
        event.n_dims = 2;
        event.shape[0] = 4;
        event.shape[1] = 6;
        EXPECT_EQ(sink.tensor(event), BITNET_OK) << sink.last_log();
        return json::parse(test::read_bytes(folder / (std::string("t0_blk0_") + name + ".trace")))["shape"];
    };
    EXPECT_EQ(show(BITNET_STAGE_Q_PROJ, "q_proj"), json::parse("[1,1,24]"));   // (batch, token, features)
    EXPECT_EQ(show(BITNET_STAGE_Q_ROPE, "q_rope"), json::parse("[1,4,1,6]"));  // (batch, head, token, dimension)
    EXPECT_EQ(show(BITNET_STAGE_ATTN_SCORES_SOFTMAX, "attn_scores_softmax"), json::parse("[1,4,1,6]"));
    EXPECT_EQ(show(BITNET_STAGE_ATTN_CONTEXT, "attn_context"), json::parse("[1,1,24]"));
}

// Whatever the type, BitNet-rs hashes the values as f32.
TEST_F(TraceDir, OtherTypesAreHashedAsF32) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open("dir=" + folder.string() + ",layout=bitnet-rs"), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    const auto inf = std::numeric_limits<float>::infinity();
    const std::vector<uint16_t> half = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x83ff, 0x0400, 0x8000, 0x7c00, 0xfc00, 0x3555};
    const std::vector<float> half_values = {1,        -2,    65504, 0x1p-24f, -1023 * 0x1p-24f,
                                            0x1p-14f, -0.0f, inf,   -inf,     0x1.554p-2f};
    const std::vector<uint16_t> brain = {0x3f80, 0xc000, 0x0001, 0x7f80, 0x4049};
    const std::vector<float> brain_values = {1, -2, 0x1p-133f, inf, 3.140625f};
    const std::vector<int8_t> codes = {-127, 0, 5};
    const std::vector<float> code_values = {-127, 0, 5};
    const std::vector<int32_t> sums = {-2147483647, 16777217, 3};
    const std::vector<float> sum_values = {-2147483648.0f, 16777216.0f, 3};
    const auto check = [&](bitnet_tensor_event_t event, const std::vector<float> &expected, const char *dtype) {
        ASSERT_EQ(sink.tensor(event), BITNET_OK) << sink.last_log();
        const json record =
            json::parse(test::read_bytes(folder / (std::string("t0_blk0_") + event.stage_name + ".trace")));
        EXPECT_EQ(record["dtype"], dtype);
        EXPECT_EQ(record["num_elements"], expected.size());
        EXPECT_EQ(record["blake3"], test::blake3_hex(expected.data(), expected.size() * 4)) << dtype;
    };
    check(rows_of(0, "half", 0, 0, half, 1, BITNET_DTYPE_F16), half_values, "F16");
    check(rows_of(0, "brain", 0, 0, brain, 1, BITNET_DTYPE_BF16), brain_values, "BF16");
    check(rows_of(0, "codes", 0, 0, codes, 1, BITNET_DTYPE_I8), code_values, "I8");
    check(rows_of(0, "sums", 0, 0, sums, 1, BITNET_DTYPE_I32), sum_values, "I32");
    EXPECT_EQ(sink.tensor(rows_of(0, "x", 0, 0, codes, 1, 77)), BITNET_E_UNSUPPORTED);
    EXPECT_EQ(sink.last_log(), "'t0/blk0/x': unknown dtype 77");
}

TEST_F(TraceDir, BadConfigurationIsDeclined) {
    const std::pair<const char *, const char *> cases[] = {
        {"", "no folder: expected dir=FOLDER or BITNET_TRACE_DIR"},
        {"layout=other", "configuration 'layout=other', expected layout=bitnet-rs"},
        {"path=x", "unknown configuration 'path=x', expected dir=FOLDER, layout=bitnet-rs"},
        {"dir=", "path is empty"},
    };
    for (const auto &[config, reason] : cases) {
        Attachment sink(kPlugin);
        EXPECT_EQ(sink.open(config), BITNET_E_INVALID) << config;
        EXPECT_EQ(sink.last_log(), reason);
    }
}

}  // namespace
}  // namespace bitnet
