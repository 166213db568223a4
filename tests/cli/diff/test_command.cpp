// The command as a user types it: exit status, what goes to stdout and what to stderr.
#include "abi/cli/commands.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <cmath>

namespace bitnet {
namespace {

struct Output {
    int exit = -1;
    std::string out, err;
};

Output run(std::vector<std::string> arguments) {
    Output output;
    CLI::App app;
    add_diff_command(app, output.exit);
    arguments.insert(arguments.begin(), "diff");
    std::reverse(arguments.begin(), arguments.end());
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    try {
        app.parse(arguments);
    } catch (const CLI::ParseError &error) {
        output.exit = -2;
        output.err = error.what();
    }
    output.out = testing::internal::GetCapturedStdout();
    output.err += testing::internal::GetCapturedStderr();
    return output;
}

bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

class Command : public testing::Test {
protected:
    void SetUp() override { a = folder.write("a.jsonl", SampleTrace()); }
    // Exit status of both formats, which must agree with each other and with the JSON.
    int exit_of(const std::string &b, std::vector<std::string> more = {}) {
        more.insert(more.begin(), {a, b});
        Output text = run(more);
        more.insert(more.end(), {"--format", "json"});
        Output json = run(more);
        EXPECT_EQ(text.exit, json.exit);
        EXPECT_EQ(text.err, json.err);
        EXPECT_EQ(text.err.empty(), text.exit != 2) << text.err;
        EXPECT_TRUE(contains(text.out, "counts")) << text.out;
        report = nlohmann::json::parse(json.out);
        EXPECT_EQ(report["exit"], json.exit);
        return json.exit;
    }
    Folder folder;
    std::string a;
    nlohmann::json report;
};

TEST_F(Command, Equal) {
    EXPECT_EQ(exit_of(a), 0);
    EXPECT_EQ(report["verdict"], "match");
    EXPECT_TRUE(report["first"].is_null());
    EXPECT_EQ(report["counts"]["compared"], 228);
}

TEST_F(Command, OneChangedValue) {
    SampleTrace b;
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (seq == 2 && layer == 1 && stage == "attn_out") values[7] += 0.125f;
    };
    EXPECT_EQ(exit_of(folder.write("b.jsonl", b)), 1);
    const nlohmann::json &first = report["first"];
    EXPECT_EQ(first["seq"], 2);
    EXPECT_EQ(first["layer"], 1);
    EXPECT_EQ(first["stage"], "attn_out");
    EXPECT_EQ(first["token"], 22);
    EXPECT_EQ(first["inputs"], "equal");
    EXPECT_EQ(first["inputs_recorded"], nlohmann::json::array({"attn_sub_norm"}));
    EXPECT_EQ(report["origins"].size(), 1u);
    EXPECT_EQ(report["growth"].size(), 3u);
    EXPECT_EQ(report["jump"]["layer"], 1);
    EXPECT_EQ(report["logits"]["seq"], 2);
    EXPECT_EQ(report["rule"], "hashes");
}

TEST_F(Command, OneMissingRecord) {
    SampleTrace b;
    b.keep = [](int seq, int layer, const std::string &stage) { return seq != 1 || layer != 0 || stage != "q_proj"; };
    std::string path = folder.write("b.jsonl", b);
    EXPECT_EQ(exit_of(path), 2);
    EXPECT_EQ(report["counts"]["missing_in_b"], 1);
    EXPECT_EQ(exit_of(path, {"--allow-missing"}), 0);
}

TEST_F(Command, EmptyFolderCutFileAndAbsentFile) {
    std::filesystem::create_directories(folder.path("empty"));
    EXPECT_EQ(exit_of(folder.path("empty")), 2);
    std::vector<std::string> lines = SampleTrace().lines();
    lines.pop_back();
    EXPECT_EQ(exit_of(folder.write("cut.jsonl", lines)), 2);
    EXPECT_TRUE(contains(report["text"], "cut short"));
    EXPECT_EQ(exit_of(folder.path("absent.jsonl")), 2);
}

TEST_F(Command, NanOnOneSide) {
    SampleTrace b;
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (seq == 3 && layer == 2 && stage == "layer_out") values[0] = NAN;
    };
    EXPECT_EQ(exit_of(folder.write("b.jsonl", b)), 1);
    EXPECT_EQ(report["first"]["b"]["nan"], 1);
    EXPECT_TRUE(report["first"]["relative"].is_null());
}

TEST_F(Command, TwoPrompts) {
    SampleTrace b;
    b.tokens = {128000, 11, 23, 33};
    EXPECT_EQ(exit_of(folder.write("b.jsonl", b)), 1);
    EXPECT_EQ(report["preflight"][0]["key"], "tokens");
    EXPECT_EQ(report["preflight"][0]["mismatch"], true);
    EXPECT_TRUE(report["first"].is_null());
    EXPECT_EQ(exit_of(folder.path("b.jsonl"), {"--ignore", "tokens"}), 1);
    EXPECT_EQ(report["first"]["stage"], "embeddings");
}

TEST_F(Command, ErrorsAreOneLineEachOnStderr) {
    std::vector<std::string> lines = SampleTrace().lines();
    lines[30] = "{\"record\":\"tensor\"}";
    lines[31] = "nonsense \n\x1b[31m";
    Output output = run({a, folder.write("b.jsonl", lines)});
    EXPECT_EQ(output.exit, 2);
    EXPECT_EQ(output.err.find('\x1b'), std::string::npos);
    size_t n = 0;
    for (size_t at = 0; at < output.err.size(); at = output.err.find('\n', at) + 1, ++n) {
        EXPECT_EQ(output.err.compare(at, 14, "bitnet: diff: "), 0) << output.err;
    }
    EXPECT_EQ(n, 3u) << output.err;
}

TEST_F(Command, ManyOriginsAreCutToTheNumberAskedFor) {
    SampleTrace b;
    b.fault = [](int, int, const std::string &stage, std::vector<float> &values) {
        if (stage == "q_proj" || stage == "k_proj" || stage == "v_proj") values[0] += 1;
    };
    EXPECT_EQ(exit_of(folder.write("b.jsonl", b), {"--max-origins", "2"}), 1);
    EXPECT_EQ(report["origins"].size(), 2u);
    EXPECT_EQ(report["origins_total"], 3);
    Output none = run({a, folder.path("b.jsonl"), "--max-origins", "0"});
    EXPECT_EQ(none.exit, 1);
    EXPECT_TRUE(contains(none.out, "and 2 more places")) << none.out;
}

TEST_F(Command, BadOptionsAreRefused) {
    for (const std::vector<std::string> &options : {std::vector<std::string>{"--tolerance", "nan"},
                                                    {"--tolerance", "-1"},
                                                    {"--tolerance", "1e-3x"},
                                                    {"--ignore", "everything"},
                                                    {"--format", "xml"},
                                                    {"--max-origins", "-1"}}) {
        std::vector<std::string> arguments = {a, a};
        arguments.insert(arguments.end(), options.begin(), options.end());
        EXPECT_EQ(run(arguments).exit, -2) << options[0] << " " << options[1];
    }
    EXPECT_EQ(run({a}).exit, -2);
}

}  // namespace
}  // namespace bitnet
