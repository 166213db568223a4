// The npy sink: which rows, their bytes, their names; and every way in which a folder fails.
#include <algorithm>
#include <csignal>
#include <regex>
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
using test::names_in;
using test::read_bytes;
using test::rows_of;

const std::string kPlugin = std::string(PLUGIN_DIRECTORY) + "/libnpy.so";
using Names = std::vector<std::string>;

struct Array {
    std::string descr, shape, data;
};

// From the NPY 1.0 specification, not from what the sink does.
Array read_npy(const fs::path &path) {
    const std::string bytes = read_bytes(path);
    Array out;
    EXPECT_EQ(bytes.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8)) << path;
    if (bytes.size() < 10) return out;
    const size_t n_header = uint8_t(bytes[8]) | size_t(uint8_t(bytes[9])) << 8;
    EXPECT_EQ((10 + n_header) % 64, 0u) << path;
    EXPECT_EQ(bytes[10 + n_header - 1], '\n') << path;
    const std::string header = bytes.substr(10, n_header);
    static const std::regex dictionary(
        R"(\{'descr': '([^']+)', 'fortran_order': False, 'shape': (\((?:\d+,|\d+(?:, \d+)+)?\)), \} *\n)");
    std::smatch match;
    EXPECT_TRUE(std::regex_match(header, match, dictionary)) << path << ": " << header;
    if (match.empty()) return out;
    out.descr = match[1];
    out.shape = match[2];
    out.data = bytes.substr(10 + n_header);
    return out;
}

json read_run(const fs::path &folder) { return json::parse(read_bytes(folder / "run.json")); }

class Npy : public test::FolderTest {
protected:
    std::string config(const std::string &rest) const { return "dir=" + (folder / "raw").string() + "," + rest; }
    fs::path run_folder(int number = 0) const {
        char name[16];
        snprintf(name, sizeof name, "run-%06d", number);
        return folder / "raw" / name;
    }
    Names values(int number = 0) const {
        Names names = names_in(run_folder(number));
        names.erase(std::remove(names.begin(), names.end(), "run.json"), names.end());
        return names;
    }
};

// Four blocks with a few stages each, in the order of execution.
bitnet_status_t evaluate(Attachment &sink, int32_t position, const std::vector<int32_t> &tokens) {
    const std::vector<float> x(8 * tokens.size(), 0.5f);
    const uint32_t n = uint32_t(tokens.size());
    bitnet_status_t status = sink.begin_step(position, tokens);
    const auto show = [&](int32_t stage, const char *name, int32_t layer) {
        if (status == BITNET_OK) status = sink.tensor(rows_of(stage, name, layer, position, x, n));
    };
    show(BITNET_STAGE_EMBEDDINGS, "embeddings", -1);
    for (int32_t layer = 0; layer < 4; ++layer) {
        show(BITNET_STAGE_V_PROJ, "v_proj", layer);
        show(BITNET_STAGE_K_ROPE, "k_rope", layer);
        show(BITNET_STAGE_FFN_OUT, "ffn_out", layer);
    }
    show(BITNET_STAGE_FINAL_NORM, "final_norm", -1);
    show(BITNET_STAGE_LOGITS, "logits", -1);
    return status == BITNET_OK ? sink.end_step(position, tokens) : status;
}

// "t2 blk1 ffn_out" of each file.
std::set<std::string> points(const Names &names) {
    std::set<std::string> out;
    for (const std::string &name : names) {
        static const std::regex parts(R"(\d{12}-t0*(\d+)(?:-blk0*(\d+))?-([^-]+)\.npy)");
        std::smatch match;
        EXPECT_TRUE(std::regex_match(name, match, parts)) << name;
        out.insert("t" + match[1].str() + (match[2].matched ? " blk" + match[2].str() : "") + " " + match[3].str());
    }
    EXPECT_EQ(out.size(), names.size());
    return out;
}

TEST_F(Npy, FilesOfOneRunAreTheHashedValues) {
    test::Host host;
    const std::string jsonl = std::string(PLUGIN_DIRECTORY) + "/libjsonl.so", trace = (folder / "a.jsonl").string();
    ASSERT_EQ(trace_host_load_plugin(host.host, jsonl.c_str(), ("path=" + trace).c_str(), host.error), BITNET_OK);
    ASSERT_EQ(trace_host_load_plugin(host.host, kPlugin.c_str(), config("raw=all").c_str(), host.error), BITNET_OK)
        << host.error;
    trace_host_set_prompt(host.host, "2+2=", 4);
    const int32_t tokens[] = {7, 8, 9};
    host.begin_run({7, 8, 9});
    trace_host_begin_step(host.host, 0, tokens, 3);
    std::vector<float> wide(3 * 300), narrow(3 * 5);
    for (size_t i = 0; i < wide.size(); ++i) wide[i] = std::sin(float(i)) * 1e-3f;
    for (size_t i = 0; i < narrow.size(); ++i) narrow[i] = -float(i);
    host.tensor(BITNET_STAGE_EMBEDDINGS, -1, 0, wide, 3);
    for (int32_t layer = 0; layer < 12; ++layer) host.tensor(BITNET_STAGE_ATTN_NORM, layer, 0, narrow, 3);
    trace_host_end_step(host.host, BITNET_OK);
    trace_host_begin_step(host.host, 3, tokens, 1);
    host.tensor(BITNET_STAGE_LOGITS, -1, 3, narrow, 1);
    trace_host_end_step(host.host, BITNET_OK);
    ASSERT_EQ(trace_host_end_run(host.host), BITNET_OK);

    std::ifstream lines(trace);
    const Names names = values();
    size_t n = 0;
    std::vector<json> steps;
    json run;
    for (std::string line; std::getline(lines, line);) {
        json record = json::parse(line);
        if (record["record"] == "run") run = record;
        if (record["record"] == "step")
            steps.push_back({{"event", record["event"]}, {"seq", record["seq"]}, {"n", record["n"]}});
        if (record["record"] != "tensor") continue;
        // Sorted by name they come in the order of the records, which is that of execution.
        ASSERT_LT(n, names.size());
        const int seq = record["seq"], layer = record["layer"];
        char expected[128];
        if (layer >= 0)
            snprintf(expected, sizeof expected, "%012d-t%06d-blk%03d-attn_norm.npy", int(record["event"]), seq, layer);
        else
            snprintf(expected, sizeof expected, "%012d-t%06d-%s.npy", int(record["event"]), seq,
                     record["stage"].get<std::string>().c_str());
        EXPECT_EQ(names[n], expected);
        const Array array = read_npy(run_folder() / names[n++]);
        EXPECT_EQ(array.descr, "<f4");
        EXPECT_EQ(array.shape, "(" + std::to_string(int(record["shape"][0])) + ",)");
        EXPECT_EQ(test::blake3_hex(array.data.data(), array.data.size()), record["blake3"]);
    }
    EXPECT_EQ(n, 3u + 36 + 1);
    EXPECT_EQ(names.size(), n);

    const json about = read_run(run_folder());
    EXPECT_EQ(about["format"], 1);
    EXPECT_EQ(about["complete"], true);
    EXPECT_EQ(about["window"], nullptr);
    EXPECT_EQ(about["tokens"], json::parse("[7,8,9,7]"));
    EXPECT_EQ(about["first_position"], 0);
    EXPECT_EQ(about["steps"], json(steps));
    EXPECT_EQ(about["records"], 40);
    size_t n_bytes = 0;
    for (const std::string &name : names) n_bytes += fs::file_size(run_folder() / name);
    EXPECT_EQ(about["bytes"], n_bytes);
    EXPECT_EQ(about["run"]["prompt"], "2+2=");
    EXPECT_EQ(about["run"]["tokens"], nullptr);
    for (const char *key : {"tokens", "time"}) run.erase(key);
    json same = about["run"];
    for (const char *key : {"tokens", "time"}) same.erase(key);
    EXPECT_EQ(same, run);
}

TEST_F(Npy, TypesAndShapes) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config("raw=all")), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    const std::vector<float> f32 = {1.5f, -0.0f, 3, 4, 5, 6};
    const std::vector<uint16_t> half = {0x3c00, 0x7e01, 0xbc00, 0};
    const std::vector<int8_t> codes = {-127, 0, 127};
    const std::vector<int32_t> acc = {-2147483647, 5};
    bitnet_tensor_event_t matrix = rows_of(BITNET_STAGE_Q_PROJ, "q_proj", 0, 0, f32, 1);
    matrix.n_dims = 2;
    matrix.shape[0] = 2;
    matrix.shape[1] = 3;
    bitnet_tensor_event_t four = rows_of(0, "x", 0, 0, f32, 1);
    four.n_dims = 4;
    for (int i = 0; i < 4; ++i) four.shape[i] = i == 2 ? 6 : 1;
    bitnet_tensor_event_t scalar = rows_of(0, "s", 0, 0, std::vector<float>(1, 2.5f), 1);
    const std::vector<float> one = {2.5f};
    scalar.data = one.data();
    scalar.n_dims = 0;
    for (const bitnet_tensor_event_t &event :
         {matrix, rows_of(0, "h", 0, 0, half, 1, BITNET_DTYPE_F16), rows_of(0, "b", 0, 0, half, 1, BITNET_DTYPE_BF16),
          rows_of(BITNET_STAGE_ATTN_NORM | BITNET_STAGE_CODES, "attn_norm.codes", 0, 0, codes, 1, BITNET_DTYPE_I8),
          rows_of(0, "a", 0, 0, acc, 1, BITNET_DTYPE_I32), four, scalar})
        EXPECT_EQ(sink.tensor(event), BITNET_OK) << sink.last_log();
    const std::string stem = "-t000000-blk000-";
    const std::vector<std::array<std::string, 4>> expected = {
        {"000000000002" + stem + "q_proj.npy", "<f4", "(2, 3)",
         std::string(reinterpret_cast<const char *>(f32.data()), 24)},
        {"000000000003" + stem + "h.npy", "<f2", "(4,)", std::string(reinterpret_cast<const char *>(half.data()), 8)},
        {"000000000004" + stem + "b.npy", "<u2", "(4,)", std::string(reinterpret_cast<const char *>(half.data()), 8)},
        {"000000000005" + stem + "attn_norm.codes.npy", "|i1", "(3,)", std::string("\x81\x00\x7f", 3)},
        {"000000000006" + stem + "a.npy", "<i4", "(2,)", std::string("\x01\x00\x00\x80\x05\x00\x00\x00", 8)},
        {"000000000007" + stem + "x.npy", "<f4", "(1, 1, 6, 1)",
         std::string(reinterpret_cast<const char *>(f32.data()), 24)},
        {"000000000008" + stem + "s.npy", "<f4", "()", std::string("\x00\x00\x20\x40", 4)},
    };
    ASSERT_EQ(values().size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(values()[i], expected[i][0]);
        const Array array = read_npy(run_folder() / expected[i][0]);
        EXPECT_EQ(array.descr, expected[i][1]);
        EXPECT_EQ(array.shape, expected[i][2]);
        EXPECT_EQ(array.data, expected[i][3]);
    }
    EXPECT_EQ(sink.tensor(rows_of(0, "z", 0, 0, f32, 1, 99)), BITNET_E_UNSUPPORTED);
    EXPECT_EQ(sink.last_log(), "'000000000009-t000000-blk000-z.npy': unknown dtype");
}

TEST_F(Npy, InputsAndForeignNames) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config("raw=all")), BITNET_OK);
    sink.begin_run();
    sink.begin_step(10, {1, 2});
    const std::vector<float> out = {1, 2, 3, 4}, own = {10, 11, 20, 21}, cache = {7, 8, 9};
    const bitnet_tensor_input_t inputs[] = {
        {"attn_norm", BITNET_STAGE_ATTN_NORM, BITNET_DTYPE_F32, 1, 0, {2}, 2, 8, own.data()},
        {"k_cache", 0, BITNET_DTYPE_F32, 1, 0, {3}, 3, 0, cache.data()},
        {"k_cache", 0, BITNET_DTYPE_F32, 1, 0, {1}, 1, 0, own.data()},
    };
    bitnet_tensor_event_t event = rows_of(0, "node-3/a b%", 1, 10, out, 2);
    event.n_inputs = 3;
    event.inputs = inputs;
    ASSERT_EQ(sink.tensor(event), BITNET_OK) << sink.last_log();
    const std::string first = "000000000002-t000010-blk001-node%2D3%2Fa%20b%25",
                      second = "000000000002-t000011-blk001-node%2D3%2Fa%20b%25";
    EXPECT_EQ(values(), (Names{first + ".in-attn_norm.npy", first + ".in-k_cache-2.npy", first + ".in-k_cache.npy",
                               first + ".npy", second + ".in-attn_norm.npy", second + ".npy"}));
    const auto floats = [&](const std::string &name) {
        const std::string data = read_npy(run_folder() / (name + ".npy")).data;
        std::vector<float> values(data.size() / 4);
        memcpy(values.data(), data.data(), data.size());
        return values;
    };
    EXPECT_EQ(floats(second), (std::vector<float>{3, 4}));
    EXPECT_EQ(floats(first + ".in-attn_norm"), (std::vector<float>{10, 11}));
    EXPECT_EQ(floats(second + ".in-attn_norm"), (std::vector<float>{20, 21}));
    EXPECT_EQ(floats(first + ".in-k_cache"), cache);
    EXPECT_EQ(floats(first + ".in-k_cache-2"), (std::vector<float>{10}));

    const std::string long_name(300, 'n');
    EXPECT_EQ(sink.tensor(rows_of(0, long_name.c_str(), 1, 10, out, 2)), BITNET_E_UNSUPPORTED);
    EXPECT_NE(sink.last_log().find("is too long for a file"), std::string::npos) << sink.last_log();
}

// Each case: the point and options, and what is written of two steps, positions 0-3 and 4.
TEST_F(Npy, TheWindow) {
    const auto of = [](std::initializer_list<int> seqs, std::initializer_list<int> layers) {
        std::set<std::string> out;
        for (int seq : seqs) {
            for (int layer : layers) {
                for (const char *stage : {"v_proj", "k_rope", "ffn_out"})
                    out.insert("t" + std::to_string(seq) + " blk" + std::to_string(layer) + " " + stage);
            }
        }
        return out;
    };
    const auto plus = [](std::set<std::string> a, std::initializer_list<const char *> more) {
        a.insert(more.begin(), more.end());
        return a;
    };
    const std::pair<const char *, std::set<std::string>> cases[] = {
        {"at=2:1:ffn_out,history=0", of({2}, {0, 1, 2})},
        {"at=2:1:ffn_out",
         plus(of({2}, {0, 1, 2}), {"t0 blk1 v_proj", "t0 blk1 k_rope", "t1 blk1 v_proj", "t1 blk1 k_rope"})},
        {"at=2:2:ffn_out,layers=0,history=0", of({2}, {2})},
        {"at=3:2:ffn_out,layers=0,positions=1,history=0", of({2, 3, 4}, {2})},
        {"at=0:0:v_proj", plus(of({0}, {0, 1}), {"t0 embeddings"})},
        {"at=0:3:v_proj", plus(of({0}, {2, 3}), {"t0 final_norm", "t0 logits"})},
        {"at=4:-1:logits", plus(of({4}, {3}), {"t4 final_norm", "t4 logits"})},
        {"at=1:-1:embeddings,layers=0", {"t1 embeddings"}},
        {"at=1:-1:logits,layers=0", {"t1 final_norm", "t1 logits"}},
    };
    int number = 0;
    for (const auto &[options, expected] : cases) {
        Attachment sink(kPlugin);
        ASSERT_EQ(sink.open(config(options)), BITNET_OK) << sink.last_log();
        sink.begin_run();
        ASSERT_EQ(evaluate(sink, 0, {1, 2, 3, 4}), BITNET_OK) << sink.last_log();
        ASSERT_EQ(evaluate(sink, 4, {5}), BITNET_OK) << sink.last_log();
        EXPECT_EQ(sink.end_run(), BITNET_OK) << options << ": " << sink.last_log();
        EXPECT_EQ(points(values(number)), expected) << options;
        EXPECT_EQ(read_run(run_folder(number++))["tokens"], json::parse("[1,2,3,4,5]"));
    }
    const json window = read_run(run_folder(3))["window"];
    EXPECT_EQ(window, json::parse(R"({"seq":3,"layer":2,"stage":"ffn_out","layers":0,"positions":1,"history":false})"));
}

// Of an engine that does not tell how many blocks there are.
TEST_F(Npy, TheWindowWithoutALayerCount) {
    for (const char *options : {"at=0:3:ffn_out", "at=0:-1:final_norm"}) {
        Attachment sink(kPlugin);
        ASSERT_EQ(sink.open(config(options)), BITNET_OK);
        sink.begin_run("n_embd=8,max_n_layer=4");
        EXPECT_EQ(evaluate(sink, 0, {1}), BITNET_OK);
    }
    EXPECT_EQ(points(values(0)), (std::set<std::string>{"t0 blk2 v_proj", "t0 blk2 k_rope", "t0 blk2 ffn_out",
                                                        "t0 blk3 v_proj", "t0 blk3 k_rope", "t0 blk3 ffn_out"}));
    EXPECT_EQ(points(values(1)), (std::set<std::string>{"t0 final_norm", "t0 logits"}));
}

TEST_F(Npy, APointThatIsNotThereIsAnError) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config("at=2:1:ffn_ot")), BITNET_OK);
    sink.begin_run();
    evaluate(sink, 0, {1, 2});
    EXPECT_EQ(sink.end_run(), BITNET_OK);  // that position may come in another run
    EXPECT_EQ(sink.last_log(),
              "no 'ffn_ot' of layer 1 at position 2 in this run, which did not evaluate that position");
    sink.begin_run();
    evaluate(sink, 0, {1, 2, 3});
    EXPECT_EQ(sink.end_run(), BITNET_E_INVALID);
    EXPECT_EQ(sink.last_log(),
              "no 'ffn_ot' of layer 1 at position 2 in this run: expected a stage of that layer that the "
              "selection includes");
}

TEST_F(Npy, BadConfigurationIsDeclined) {
    const std::string keys = "dir=FOLDER, at=SEQ:LAYER:STAGE, layers=N, positions=N, history=0 or 1, raw=all, max_mb=N";
    const std::string point = "at=SEQ:LAYER:STAGE, such as at=5:3:ffn_out";
    const std::string neither = "raw values of everything may be gigabytes: say at=SEQ:LAYER:STAGE for a window around "
                                "that point, or raw=all for all that is selected";
    const std::pair<std::string, std::string> cases[] = {
        {"", neither},
        {"dir=/tmp/x", neither},
        {"path=/tmp/x", "unknown configuration 'path=/tmp/x', expected " + keys},
        {"all", "unknown configuration 'all', expected " + keys},
        {"raw=some", "configuration 'raw=some', expected raw=all"},
        {"at=5", "configuration 'at=5', expected " + point},
        {"at=5:3", "configuration 'at=5:3', expected " + point},
        {"at=5:3:", "configuration 'at=5:3:', expected " + point},
        {"at=x:3:q_proj", "configuration 'at=x:3:q_proj', expected " + point},
        {"at=5:-2:q_proj", "configuration 'at=5:-2:q_proj', expected " + point},
        {"at=-1:3:q_proj", "configuration 'at=-1:3:q_proj', expected " + point},
        {"at=5:3:*", "configuration 'at=5:3:*', expected " + point},
        {"at=5:3:q_proj,at=6:3:q_proj", "configuration 'at=6:3:q_proj', expected one point, at= once"},
        {"at=5:3:q_proj,raw=all", "configuration 'at=5:3:q_proj', expected either at= or raw=all"},
        {"raw=all,layers=2", "configuration 'layers=2', expected it with at=, not with raw=all"},
        {"at=5:3:q_proj,layers=x", "configuration 'layers=x', expected layers=0 to 999999"},
        {"at=5:3:q_proj,positions=-1", "configuration 'positions=-1', expected positions=0 to 999999"},
        {"at=5:3:q_proj,history=2", "configuration 'history=2', expected history=0 or history=1"},
        {"raw=all,max_mb=0", "configuration 'max_mb=0', expected max_mb=1 to 16777216"},
        {"raw=all,dir=", "path is empty"},
        {"raw=all,dir=a%q", "path 'a%q': unknown '%q', expected %p, %%, %, or %;"},
        {"raw=all,dir=/" + std::string(4000, 'x'), "path is too long"},
    };
    for (const auto &[text, reason] : cases) {
        Attachment sink(kPlugin);
        EXPECT_EQ(sink.open(text), BITNET_E_INVALID) << text;
        EXPECT_EQ(sink.last_log(), reason) << text;
    }
}

TEST_F(Npy, TheLimitIsAClearFailure) {
    Attachment sink(kPlugin);
    ASSERT_EQ(sink.open(config("raw=all,max_mb=1")), BITNET_OK);
    sink.begin_run();
    sink.begin_step(0, {1});
    const std::vector<float> big(100000);
    EXPECT_EQ(sink.tensor(rows_of(0, "a", 0, 0, big, 1)), BITNET_OK);
    EXPECT_EQ(sink.tensor(rows_of(0, "b", 0, 0, big, 1)), BITNET_OK);
    EXPECT_EQ(sink.tensor(rows_of(0, "c", 0, 0, big, 1)), BITNET_E_IO);
    EXPECT_EQ(sink.last_log(), "max_mb=1 is reached: 800256 bytes are in '" + (folder / "raw").string() +
                                   "', '000000000004-t000000-blk000-c.npy' needs 400128 more");
    sink.close();
    EXPECT_EQ(values().size(), 2u);
    const json run = read_run(run_folder());
    EXPECT_EQ(run["complete"], false);
    EXPECT_EQ(run["records"], 2);
    EXPECT_EQ(run["bytes"], 800256);
}

}  // namespace
}  // namespace bitnet
