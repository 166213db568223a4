#include "abi/cli/diff/stages.h"
#include "abi/cli/diff/text.h"
#include "abi/cli/diff/trace_reader.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <zstd.h>

namespace bitnet {
namespace {

using namespace diff;

std::string first_problem(const Trace &trace) { return trace.problems.empty() ? "" : trace.problems.lines()[0]; }

bool contains(const std::string &text, const std::string &part) { return text.find(part) != std::string::npos; }

// The trace read from the sample's lines after `change`.
Trace read_changed(const std::function<void(std::vector<std::string> &)> &change) {
    Folder folder;
    std::vector<std::string> lines = SampleTrace().lines();
    change(lines);
    return read_trace(folder.write("t.jsonl", lines));
}

// The same with one text of one record replaced.
Trace read_with(const std::string &from, const std::string &to, int seq = 1, int layer = 1,
                const std::string &stage = "ffn_act") {
    return read_changed([&](std::vector<std::string> &lines) {
        std::string &line = lines[line_of(lines, seq, layer, stage)];
        size_t at = line.find(from);
        ASSERT_NE(at, std::string::npos) << from;
        line.replace(at, from.size(), to);
    });
}

TEST(Stages, EveryStageHasAnOwnKeyInExecutionOrder) {
    Key before = 0;
    auto visit = [&](int layer, const Stage &stage) {
        Key key = make_key(3, 77, layer, stage);
        EXPECT_GT(key, before) << stage.name;
        EXPECT_EQ(run_of(key), 3);
        EXPECT_EQ(position_of(key), 77);
        EXPECT_EQ(layer_of(key), layer);
        EXPECT_EQ(find_stage(int(node_of(key))), &stage);
        EXPECT_LT(key, next_position(key));
        before = key;
    };
    visit(-1, *find_stage("embeddings"));
    for (int layer : {0, 1, kMaxLayers - 1}) {
        for (const Stage &stage : stages()) {
            if (stage.in_layer) visit(layer, stage);
        }
    }
    visit(-1, *find_stage("final_norm"));
    visit(-1, *find_stage("logits"));
    EXPECT_EQ(position_of(next_position(before)), 78);
    EXPECT_GT(make_key(3, 78, -1, *find_stage("embeddings")), before);
    EXPECT_GT(make_key(kMaxRuns - 1, 0, 0, *find_stage("attn_norm")),
              make_key(3, kMaxPositions - 1, -1, *find_stage("logits")));
    EXPECT_EQ(position_of(make_key(0, kMaxPositions - 1, -1, *find_stage("logits"))), kMaxPositions - 1);
}

TEST(Stages, NamesAreUniqueAndFound) {
    std::set<std::string_view> names;
    for (const Stage &stage : stages()) {
        EXPECT_TRUE(names.insert(stage.name).second);
        EXPECT_EQ(find_stage(stage.name), &stage);
    }
    EXPECT_EQ(names.size(), 22u + 8 + 7);
    EXPECT_EQ(find_stage("attn_context.codes"), nullptr);
    EXPECT_EQ(find_stage(""), nullptr);
    EXPECT_EQ(find_stage(-1), nullptr);
    EXPECT_EQ(find_stage(kNodeLimit), nullptr);
}

TEST(Stages, SemanticsExplainTheirStagesOnly) {
    EXPECT_TRUE(semantics_key_affects("activation", *find_stage("ffn_act")));
    EXPECT_FALSE(semantics_key_affects("activation", *find_stage("ffn_norm")));
    EXPECT_TRUE(semantics_key_affects("eps", *find_stage("final_norm")));
    EXPECT_TRUE(semantics_key_affects("kv", *find_stage("attn_context")));
    EXPECT_FALSE(semantics_key_affects("head_input", *find_stage("layer_out")));
    EXPECT_TRUE(semantics_key_affects("a_switch_of_tomorrow", *find_stage("layer_out")));
}

TEST(Reader, ReadsEveryFieldOfARecord) {
    SampleTrace sample;
    Folder folder;
    Trace trace = read_trace(folder.write("t.jsonl", sample));
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    EXPECT_TRUE(trace.incomplete.empty());
    EXPECT_EQ(trace.records.size(), 4u * (3 * 18 + 3));
    ASSERT_EQ(trace.runs.size(), 1u);
    const diff::Run &run = trace.runs[0];
    EXPECT_EQ(run.engine, "sample");
    EXPECT_EQ(run.engine_version, "1.0");
    EXPECT_EQ(run.kv_type, "f32");
    EXPECT_EQ(run.max_layer, 2);
    ASSERT_EQ(run.tokens.size(), 4u);
    EXPECT_EQ(run.tokens[1], std::make_pair(int64_t(1), int32_t(11)));
    EXPECT_EQ(run.semantics[0], std::make_pair(std::string("activation"), std::string("relu2")));
    ASSERT_EQ(trace.sorted.size(), trace.records.size());
    for (size_t i = 1; i < trace.sorted.size(); ++i) EXPECT_LT(trace.sorted[i - 1]->key, trace.sorted[i]->key);
}

TEST(Reader, SketchTopAndStatisticsAreTheWritersValues) {
    std::vector<float> values(100);
    for (size_t i = 0; i < values.size(); ++i) values[i] = 0.001f * float(i);
    values[70] = -3.25f;
    values[5] = 2.5f;
    values[6] = HUGE_VALF;
    values[7] = NAN;
    Folder folder;
    SampleTrace sample;
    sample.keep = [](int seq, int, const std::string &stage) { return seq == 0 && stage == "logits"; };
    std::vector<std::string> lines = sample.lines();
    lines[line_of(lines, 0, -1, "logits")] = tensor_line(0, 7, 0, -1, "logits", values);
    Trace trace = read_trace(folder.write("t.jsonl", lines));
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    ASSERT_EQ(trace.records.size(), 1u);
    const Record &r = trace.records[0];
    std::vector<float> sketch = sketch_of(values);
    EXPECT_TRUE(std::equal(sketch.begin(), sketch.end(), r.sketch.begin()));
    EXPECT_EQ(r.n_nan, 1u);
    EXPECT_EQ(r.n_inf, 1u);
    EXPECT_EQ(r.n_zeros, 1u);
    EXPECT_EQ(r.n_elements, 100u);
    EXPECT_EQ(r.event, 7u);
    EXPECT_EQ(r.min, -3.25);
    EXPECT_EQ(r.max, 2.5);
    EXPECT_EQ(r.n_top, 8u);
    EXPECT_EQ(r.top[0].index, 6u);
    EXPECT_TRUE(std::isinf(r.top[0].value));
    EXPECT_EQ(r.top[1].index, 70u);
    EXPECT_EQ(r.top[1].value, -3.25f);
    EXPECT_STREQ(r.dtype.data(), "F32");
    EXPECT_EQ(trace.files[r.file], folder.path("t.jsonl"));
    EXPECT_EQ(r.line, 3u);
}

TEST(Reader, TokensComeFromTheSteps) {
    SampleTrace sample;
    sample.prefill = false;
    Folder folder;
    Trace trace = read_trace(folder.write("t.jsonl", sample));
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    ASSERT_EQ(trace.runs[0].tokens.size(), 4u);
    EXPECT_EQ(trace.runs[0].tokens[3].second, 33);
}

TEST(Reader, TokensOfTheRunRecordServeWithoutSteps) {
    Trace trace = read_changed([](auto &lines) { lines.erase(lines.begin() + 1); });
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    EXPECT_EQ(trace.runs[0].tokens.size(), 4u);
}

TEST(Reader, AFolderIsReadInNameOrderAndItsRunsRenumbered) {
    Folder folder;
    SampleTrace first, second;
    second.tokens = {5};
    folder.write("d/b.jsonl", second);
    folder.write("d/a.jsonl", first);
    folder.write_bytes("d/readme.txt", "not a trace");
    Trace trace = read_trace(folder.path("d"));
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    ASSERT_EQ(trace.runs.size(), 2u);
    EXPECT_EQ(trace.runs[0].tokens.size(), 4u);
    EXPECT_EQ(trace.runs[1].tokens.size(), 1u);
    EXPECT_EQ(run_of(trace.sorted.back()->key), 1);
}

TEST(Reader, SeveralRunsOfAFile) {
    SampleTrace second;
    second.run = 4;
    std::vector<std::string> more = second.lines();
    Trace trace = read_changed([&](auto &lines) { lines.insert(lines.end(), more.begin(), more.end()); });
    EXPECT_TRUE(trace.problems.empty()) << first_problem(trace);
    EXPECT_EQ(trace.runs.size(), 2u);
    EXPECT_EQ(trace.n_duplicate, 0u);
}

TEST(Reader, AllLayersOutIsTheLastLayersOutput) {
    Trace trace = read_changed([](auto &lines) {
        std::string &line = lines[line_of(lines, 0, 2, "layer_out")];
        line.replace(line.find("\"layer\":2"), 9, "\"layer\":-2");
        line.replace(line.find("\"stage\":\"layer_out\""), 19, "\"stage\":\"all_layers_out\"");
    });
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    Key key = make_key(0, 0, 2, *find_stage("layer_out"));
    EXPECT_TRUE(std::any_of(trace.sorted.begin(), trace.sorted.end(), [&](auto *r) { return r->key == key; }));
}

TEST(Reader, ALineLongerThanItsBuffer) {
    Trace trace = read_changed([](auto &lines) {
        std::string &line = lines[5];
        line.insert(line.size() - 1, ",\"note\":\"" + std::string(3 << 20, 'x') + "\"");
    });
    EXPECT_TRUE(trace.problems.empty()) << first_problem(trace);
    EXPECT_EQ(trace.records.size(), 4u * (3 * 18 + 3));
}

struct Damage {
    const char *name, *from, *to, *message;
};
class DamagedRecord : public ::testing::TestWithParam<Damage> {};

TEST_P(DamagedRecord, IsCountedAndNamed) {
    const Damage &damage = GetParam();
    Trace trace = read_with(damage.from, damage.to);
    EXPECT_EQ(trace.n_unparsable, 1u);
    EXPECT_EQ(trace.problems.total(), 1u);
    EXPECT_TRUE(contains(first_problem(trace), damage.message)) << first_problem(trace);
    EXPECT_TRUE(contains(first_problem(trace), "t.jsonl:")) << first_problem(trace);
    EXPECT_EQ(first_problem(trace).find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Reader, DamagedRecord,
    ::testing::Values(Damage{"syntax", "\"rms\":", "\"rms\"", "not JSON"},
                      Damage{"kind", "\"tensor\"", "\"tensro\"", "\"tensro\" found"},
                      Damage{"stage", "\"stage\":\"ffn_act\"", "\"stage\":\"ffn_akt\"", "unknown stage \"ffn_akt\""},
                      Damage{"layer", "\"layer\":1", "\"layer\":-1", "layer -1 found"},
                      Damage{"huge_layer", "\"layer\":1", "\"layer\":99999", "layer 99999 found"},
                      Damage{"seq", "\"seq\":1", "\"seq\":-1", "\"seq\": -1 found"},
                      Damage{"huge_seq", "\"seq\":1", "\"seq\":99999999999", "\"seq\": 99999999999 found"},
                      Damage{"run", "\"run\":0", "\"run\":7", "7 found, 0 is open"},
                      Damage{"nan_metric",
                             "\"mean\":", "\"mean\":\"NaN\",\"was\":", "\"mean\": \"NaN\" found, a finite number"},
                      Damage{"negative_rms", "\"rms\":", "\"rms\":-1,\"was\":", "not negative"},
                      Damage{"dtype", "\"F32\"", "\"F64\"", "\"F64\" found"},
                      Damage{"short_hash", "\"blake3\":\"", "\"blake3\":\"0", "64 hex digits expected"},
                      Damage{"hash_digit", "\"multiset\":\"", "\"multiset\":\"zzzzzzzzzzzzzzzz\",\"was\":\"",
                             "16 hex digits expected"},
                      Damage{"sketch", "\"sketch\":\"", "\"sketch\":\"!", "base64 of 64 f32 expected"},
                      Damage{"top", "\"top\":[[", "\"top\":[[99999999,1],[", "\"top\""},
                      Damage{"top_index", "\"num_elements\":160", "\"num_elements\":3", "index"},
                      Damage{"twice", "\"rms\":", "\"rms\":1,\"rms\":", "\"rms\" is there twice"},
                      Damage{"absent", "\"l2\":", "\"l3\":", "no \"l2\""},
                      Damage{"zeros", "\"nan\":0", "\"nan\":161", "more than \"num_elements\""}),
    [](const auto &test) { return test.param.name; });

TEST(Reader, ACutFileSaysSo) {
    Trace trace = read_changed([](auto &lines) { lines.pop_back(); });
    EXPECT_EQ(trace.problems.total(), 1u);
    EXPECT_TRUE(contains(first_problem(trace), "cut short: run 0 has no run_end")) << first_problem(trace);
}

TEST(Reader, ALineCutInTheMiddleSaysSo) {
    Folder folder;
    std::string bytes = joined(SampleTrace().lines());
    Trace trace = read_trace(folder.write_bytes("t.jsonl", bytes.substr(0, bytes.size() / 2)));
    EXPECT_EQ(trace.problems.total(), 2u);
    EXPECT_TRUE(contains(first_problem(trace), "the last line is cut"));
    EXPECT_TRUE(contains(trace.problems.lines()[1], "cut short"));
}

TEST(Reader, TheLastLineNeedsNoLineEnd) {
    Folder folder;
    std::string bytes = joined(SampleTrace().lines());
    bytes.pop_back();
    Trace trace = read_trace(folder.write_bytes("t.jsonl", bytes));
    EXPECT_TRUE(trace.problems.empty()) << first_problem(trace);
}

TEST(Reader, DuplicatesAreNamedWithBothLines) {
    Trace trace =
        read_changed([](auto &lines) { lines.insert(lines.end() - 1, lines[line_of(lines, 1, 1, "ffn_act")]); });
    EXPECT_EQ(trace.n_duplicate, 1u);
    EXPECT_TRUE(contains(first_problem(trace), "duplicate of t1/blk1/ffn_act, first in line ")) << first_problem(trace);
    EXPECT_EQ(trace.incomplete.total(), 1u);
}

TEST(Reader, FewerRecordsThanRunEndSays) {
    Trace trace = read_changed([](auto &lines) { lines.erase(lines.begin() + 9); });
    EXPECT_TRUE(trace.problems.empty());
    ASSERT_EQ(trace.incomplete.total(), 1u);
    EXPECT_TRUE(contains(trace.incomplete.lines()[0], "run_end says 228 tensor records, 227 are there"));
}

TEST(Reader, UnreadableInput) {
    Folder folder;
    EXPECT_TRUE(contains(first_problem(read_trace(folder.path("none.jsonl"))), "No such file"));
    std::filesystem::create_directories(folder.path("empty"));
    EXPECT_TRUE(contains(first_problem(read_trace(folder.path("empty"))), "no *.jsonl"));
    EXPECT_TRUE(contains(first_problem(read_trace(folder.write_bytes("e.jsonl", ""))), "is empty"));
    EXPECT_TRUE(contains(first_problem(read_trace(folder.write_bytes("x.jsonl", "{}\n"))), "no \"record\""));
    std::filesystem::create_directories(folder.path("f/sub.jsonl"));
    EXPECT_TRUE(contains(first_problem(read_trace(folder.path("f"))), "sub.jsonl: Is a directory"));
    std::string control = folder.write_bytes("c\x1b[31m.jsonl", "");
    EXPECT_EQ(first_problem(read_trace(control)).find('\x1b'), std::string::npos);
}

std::string packed(const std::string &text, int with_checksum = 0) {
    std::string out(ZSTD_compressBound(text.size()), '\0');
    ZSTD_CCtx *zstd = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, with_checksum);
    out.resize(ZSTD_compress2(zstd, out.data(), out.size(), text.data(), text.size()));
    ZSTD_freeCCtx(zstd);
    return out;
}

TEST(Reader, CompressedFilesAreKnownByTheirBytes) {
    Folder folder;
    const std::string text = joined(SampleTrace().lines());
    // One frame, two frames that cut a line, a name that does not say it.
    const std::string two_frames = packed(text.substr(0, 12345)) + packed(text.substr(12345));
    for (const std::string &path :
         {folder.write_bytes("a.jsonl.zst", packed(text)), folder.write_bytes("b.jsonl.zst", two_frames),
          folder.write_bytes("c", two_frames)}) {
        Trace trace = read_trace(path);
        EXPECT_TRUE(trace.problems.empty()) << first_problem(trace);
        EXPECT_TRUE(trace.incomplete.empty());
        EXPECT_EQ(trace.records.size(), 4u * (3 * 18 + 3));
    }
    SampleTrace second;
    second.tokens = {5};
    folder.write("d/b.jsonl", second);
    folder.write_bytes("d/a.jsonl.zst", packed(text));
    folder.write_bytes("d/c.zst", "not a trace");
    Trace trace = read_trace(folder.path("d"));
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    ASSERT_EQ(trace.runs.size(), 2u);
    EXPECT_EQ(trace.runs[0].tokens.size(), 4u);
    EXPECT_EQ(trace.runs[1].tokens.size(), 1u);
}

// Wherever it is cut, it is no trace without a problem.
TEST(Reader, ACutCompressedFileSaysSo) {
    Folder folder;
    const std::string bytes = packed(joined(SampleTrace().lines()));
    for (size_t n = 0; n < bytes.size(); n += 1 + n / 5) {
        Trace trace = read_trace(folder.write_bytes("t.jsonl.zst", bytes.substr(0, n)));
        ASSERT_FALSE(trace.problems.empty()) << n;
        const std::string expected = n ? "cut short: its zstd stream has no end" : "is empty";
        const auto &lines = trace.problems.lines();
        EXPECT_TRUE(std::any_of(lines.begin(), lines.end(), [&](auto &line) { return contains(line, expected); }))
            << n << ": " << first_problem(trace);
    }
    // All of the lines, but not the end of the stream.
    const std::string checked = packed(joined(SampleTrace().lines()), 1);
    Trace trace = read_trace(folder.write_bytes("t.jsonl.zst", checked.substr(0, checked.size() - 2)));
    EXPECT_EQ(trace.problems.total(), 1u);
    EXPECT_TRUE(contains(first_problem(trace), "cut short: its zstd stream has no end")) << first_problem(trace);
}

TEST(Reader, ADamagedCompressedFileSaysSo) {
    Folder folder;
    std::string bytes = packed(joined(SampleTrace().lines()));
    bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 0x55);
    bytes.resize(bytes.size() * 3 / 4);
    Trace trace = read_trace(folder.write_bytes("t.jsonl.zst", bytes));
    ASSERT_FALSE(trace.problems.empty());
    trace = read_trace(folder.write_bytes("t.jsonl.zst", "{\"record\":\"run\"}\n"));
    EXPECT_TRUE(contains(first_problem(trace), "damaged zstd stream near byte 0")) << first_problem(trace);
}

TEST(Reader, TheFirstNonFiniteValueIsOptional) {
    EXPECT_FALSE(read_changed([](auto &) {}).records[0].nonfinite.has_value());
    Trace trace = read_with("\"zeros\":", "\"nonfinite\":17,\"zeros\":");
    ASSERT_TRUE(trace.problems.empty()) << first_problem(trace);
    EXPECT_EQ(std::count_if(trace.records.begin(), trace.records.end(), [](auto &r) { return r.nonfinite == 17u; }), 1);
    EXPECT_EQ(read_with("\"zeros\":", "\"nonfinite\":-1,\"zeros\":").n_unparsable, 1u);
}

TEST(Reader, OtherSchemasAreRefused) {
    Trace trace =
        read_changed([](auto &lines) { lines[0].replace(lines[0].find("\"schema\":1"), 10, "\"schema\":2"); });
    EXPECT_TRUE(contains(first_problem(trace), "\"schema\": 2 found, 1 expected")) << first_problem(trace);
}

TEST(Reader, ManyProblemsAreCountedAndFewKept) {
    Trace trace = read_changed([](auto &lines) {
        for (size_t i = 10; i < 110; ++i) lines[i] = "?";
    });
    EXPECT_EQ(trace.n_unparsable, 100u);
    EXPECT_EQ(trace.problems.total(), 100u);
    EXPECT_EQ(trace.problems.lines().size(), Problems::kKept);
    EXPECT_TRUE(trace.incomplete.empty());
}

TEST(Text, PrintableHoldsNoControlCharacters) {
    EXPECT_EQ(printable("a\x1b[0m\n\x7f"), "a\\x1b[0m\\x0a\\x7f");
    EXPECT_EQ(printable("\xc2\x9b"
                        "1m"),
              "\\x9b1m");
    EXPECT_EQ(printable("\xc3\xa9"), "\xc3\xa9");
    EXPECT_EQ(printable("abc\xc3\xa9", 4), "abc...");
    EXPECT_EQ(printable("abcdef", 6), "abcdef");
}

TEST(Text, RoundedUpIsNeverBelow) {
    for (double value : {0.61, 0.611, 1.2345e-7, 9.99, 0.0995, 123.4}) {
        double shown = std::stod(rounded_up(value));
        EXPECT_GE(shown, value);
        EXPECT_LE(shown, value * 1.2);
    }
    EXPECT_EQ(rounded_up(0), "0");
}

}  // namespace
}  // namespace bitnet
