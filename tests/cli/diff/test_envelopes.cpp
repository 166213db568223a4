// Traces judged by envelopes that are written down here: which record is the first outside, whatever order the two were read in.
#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/text.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

namespace bitnet {
namespace {

using namespace diff;

struct Result {
    Trace a, b;
    Report report;
    std::string first() const { return report.first ? record_name(report.first->key()) : ""; }
};

// Two classes: `small` and `large` are the distances that they allow of these stages, in every layer.
std::shared_ptr<const envelope::Judge> envelope_around(const std::vector<std::string> &stages, double small, double large) {
    envelope::Envelope envelope;
    for (const double allowed : {small, large}) {
        envelope::ClassReach reach;
        reach.name = allowed == small ? "small" : "large";
        for (const std::string &stage : stages) {
            const bool in_layer = find_stage(stage)->in_layer;
            for (int layer = in_layer ? 0 : -1; layer < (in_layer ? 3 : 0); ++layer)
                reach.stages.push_back({layer, stage, allowed / envelope::margin, 0, 0});
        }
        envelope.classes.push_back(reach);
    }
    return std::make_shared<const envelope::Judge>(envelope);
}

std::vector<std::string> all_stages() {
    std::vector<std::string> names;
    for (const Stage &stage : stages()) names.emplace_back(stage.name);
    return names;
}

std::unique_ptr<Result> compare(const std::vector<std::string> &a, const std::vector<std::string> &b,
                                std::shared_ptr<const envelope::Judge> judge) {
    Folder folder;
    Options options;
    options.find_envelopes = [&](const Trace &, const Trace &) { return Envelopes{judge}; };
    auto result = std::make_unique<Result>();
    result->report = compare_files(folder.write("a.jsonl", a), folder.write("b.jsonl", b), options, result->a, result->b);
    return result;
}

// v_proj of layer 1 is off by these factors, by position, and nothing goes on from there.
SampleTrace off_by(std::vector<float> errors) {
    SampleTrace trace;
    trace.keep = [](int, int layer, const std::string &stage) { return layer == 1 && stage == "v_proj"; };
    trace.fault = [=](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (layer != 1 || stage != "v_proj") return;
        for (float &value : values) value *= 1 + errors[size_t(seq)];
    };
    return trace;
}

SampleTrace exact() { return off_by({0, 0, 0, 0}); }

TEST(Envelopes, TheFirstOutsideIsShownWithItsOwnRecords) {
    const std::vector<std::vector<float>> cases = {
        {0.125f, 0.25f, 0.5f, 0.25f}, {0.5f, 0.25f, 0.125f, 0.75f}, {0.125f, 0.75f, 0.5f, 0.625f}, {0.25f, 0.25f, 0.25f, 0.5f}};
    const std::vector<int> expected = {2, 0, 1, 3};
    for (size_t i = 0; i < cases.size(); ++i) {
        std::vector<std::string> a = exact().lines(), b = off_by(cases[i]).lines();
        for (const bool reversed : {false, true}) {
            if (reversed) {  // tensor records alone; each side in another order than the key's
                std::reverse(a.begin() + 1, a.end() - 1);
                std::reverse(b.begin() + 1, b.end() - 1);
            }
            const auto r = compare(a, b, envelope_around({"v_proj"}, 0.2, 0.4));
            ASSERT_EQ(r->report.verdict, Verdict::divergence) << r->report.sentence;
            EXPECT_EQ(r->first(), "t" + std::to_string(expected[i]) + "/blk1/v_proj");
            EXPECT_EQ(r->report.first_a.key, r->report.first->key());
            EXPECT_EQ(r->report.first_b.key, r->report.first->key());
            EXPECT_EQ(r->report.first_a.line, r->report.first->a.line);
            EXPECT_EQ(r->report.first_b.line, r->report.first->b.line);
            EXPECT_NEAR(r->report.first_b.l2 / r->report.first_a.l2, 1 + cases[i][size_t(expected[i])], 1e-6);
        }
    }
}

TEST(Envelopes, EveryRecordHasItsSmallestClass) {
    const auto r = compare(exact().lines(), off_by({0, 0.125f, 0.25f, 0.5f}).lines(), envelope_around({"v_proj"}, 0.2, 0.4));
    ASSERT_TRUE(r->report.noise);
    EXPECT_EQ(r->report.noise->records, (std::vector<uint64_t>{1, 1, 1}));
    EXPECT_FALSE(r->report.noise->noise_class);
    const auto inside =
        compare(exact().lines(), off_by({0, 0.125f, 0.25f, 0.25f}).lines(), envelope_around({"v_proj"}, 0.2, 0.4));
    EXPECT_EQ(inside->report.verdict, Verdict::match) << inside->report.sentence;
    EXPECT_EQ(inside->report.noise->noise_class, 1u);
}

// A stage that was not measured is neither wrong nor does it hide what is.
TEST(Envelopes, StagesThatAreNotInItAreNotJudged) {
    SampleTrace b;
    b.fault = [](int, int layer, const std::string &stage, std::vector<float> &values) {
        if (layer == 1 && stage == "v_proj")
            for (float &value : values) value *= 1.5f;
    };
    std::vector<std::string> stages = all_stages();
    std::erase(stages, "v_proj");
    const auto r = compare(SampleTrace().lines(), b.lines(), envelope_around(stages, 1e-3, 10));
    EXPECT_EQ(r->report.verdict, Verdict::match) << r->report.sentence;
    EXPECT_GT(r->report.comparison.counts.unjudged, 0u);
    const auto strict = compare(SampleTrace().lines(), b.lines(), envelope_around(stages, 1e-5, 1e-5));
    ASSERT_EQ(strict->report.verdict, Verdict::divergence) << strict->report.sentence;
    EXPECT_EQ(strict->report.origins.at(0).inputs, Inputs::inside) << "what goes in was not found wrong";
    const auto nothing = compare(exact().lines(), off_by({1, 1, 1, 1}).lines(), envelope_around({"q_proj"}, 1, 1));
    EXPECT_EQ(nothing->report.verdict, Verdict::error);
    EXPECT_NE(nothing->report.sentence.find("none of the stages"), std::string::npos) << nothing->report.sentence;
}

// Nobody knows how far apart records without sketches are, unless their sizes tell.
TEST(Envelopes, RecordsWithoutSketchesAreNoMatch) {
    const std::vector<std::string> full = exact().lines();
    const auto measured = compare(full, off_by({1, 1, 1, 1}).lines(), envelope_around({"v_proj"}, 0.2, 0.4));
    const Record &record = measured->report.first_a;  // of position 0
    for (const double factor : {1.0, 3.0}) {
        const std::string bare =
            format_text(R"({"name":"t0/blk1/v_proj","shape":[1,%d],"dtype":"F32","blake3":"%s","rms":%.9g,)"
                        R"("num_elements":%d,"seq":0,"layer":1,"stage":"v_proj"})",
                        int(record.n_elements), std::string(64, 'b').c_str(), factor * record.rms, int(record.n_elements));
        SampleTrace first = exact();
        first.keep = [](int seq, int layer, const std::string &stage) { return seq == 0 && layer == 1 && stage == "v_proj"; };
        const auto r = compare(first.lines(), {bare}, envelope_around({"v_proj"}, 0.2, 0.4));
        ASSERT_EQ(r->report.comparison.counts.compared, 1u) << r->report.sentence;
        EXPECT_EQ(r->report.verdict, factor == 1 ? Verdict::error : Verdict::divergence) << r->report.sentence;
        if (factor == 1) {
            EXPECT_NE(r->report.sentence.find("1 of 1 records differ and cannot be judged"), std::string::npos)
                << r->report.sentence;
        } else {
            EXPECT_TRUE(r->report.first_b.bare);
            EXPECT_EQ(r->report.first_a.l2, record.l2);
        }
    }
}

}  // namespace
}  // namespace bitnet
