#include "abi/cli/diff/map.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

namespace bitnet {
namespace {

using namespace diff;

struct Compared {
    std::unique_ptr<Trace> a, b;
    Comparison comparison;
};

Compared compared(const std::vector<std::string> &a, const std::vector<std::string> &b, Options options = {}) {
    Folder folder;
    Compared out;
    out.a = std::make_unique<Trace>();
    out.b = std::make_unique<Trace>();
    out.comparison =
        compare_files(folder.write("a.jsonl", a), folder.write("b.jsonl", b), options, *out.a, *out.b).comparison;
    return out;
}

Compared compared(const SampleTrace &a, const SampleTrace &b, Options options = {}) {
    return compared(a.lines(), b.lines(), options);
}

void drift(int seq, int layer, const std::string &, std::vector<float> &values) {
    values[0] += 0.01f * float(1 + seq % 7) * float(layer + 2);
}

// The largest distance of what a cell covers, pair by pair.
double worst_of(const Comparison &comparison, const std::function<bool(const Pair &)> &covers) {
    double worst = -1;
    for (const Pair &pair : comparison.pairs)
        if (covers(pair)) worst = std::max(worst, pair.distance);
    return worst;
}

double shown(const Cell &cell) { return cell.worst ? cell.worst->distance : -1; }

TEST(Map, EveryCellIsTheWorstOfWhatItCovers) {
    SampleTrace b;
    b.fault = drift;
    const Compared c = compared({}, b);
    const Map map = map_of(c.comparison, *c.a, *c.b);
    ASSERT_EQ(map.by_stage.size(), 5u);  // embeddings, three layers, output
    ASSERT_EQ(map.columns.size(), 4u);
    for (size_t r = 0; r < map.by_stage.size(); ++r) {
        const MapRow &row = map.by_stage[r];
        const auto in_row = [&](const Pair &pair) {
            const std::string stage(find_stage(int(node_of(pair.key())))->name);
            if (row.first_layer >= 0) return layer_of(pair.key()) == row.first_layer;
            return row.before ? stage == "embeddings" : stage == "final_norm" || stage == "logits";
        };
        for (size_t i = 0; i < map.stages.size(); ++i)
            EXPECT_EQ(shown(row.cells[i]), worst_of(c.comparison,
                                                    [&](const Pair &pair) {
                                                        return in_row(pair) &&
                                                               node_of(pair.key()) == map.stages[i].stage->node;
                                                    }))
                << r << " " << map.stages[i].stage->name;
        for (size_t i = 0; i < map.columns.size(); ++i)
            EXPECT_EQ(shown(map.by_position[r].cells[i]),
                      worst_of(c.comparison,
                               [&](const Pair &pair) { return in_row(pair) && position_of(pair.key()) == int(i); }))
                << r << " " << i;
    }
}

TEST(Map, ManyPositionsShareColumnsAndNothingIsLost) {
    SampleTrace a, b;
    a.n_layer = b.n_layer = 1;
    a.tokens.assign(300, 7);
    b.tokens = a.tokens;
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (seq == 299 && layer < 0 && stage == "logits") values[1] += 3;
    };
    const Compared c = compared(a, b);
    const Map map = map_of(c.comparison, *c.a, *c.b);
    ASSERT_EQ(map.columns.size(), 100u);  // 300 positions, three each: at most 128
    EXPECT_EQ(position_of(map.columns[0].first), 0);
    EXPECT_EQ(position_of(map.columns[0].last), 2);
    EXPECT_EQ(position_of(map.columns[99].first), 297);
    EXPECT_EQ(position_of(map.columns[99].last), 299);
    for (size_t i = 0; i < 100; ++i)
        EXPECT_EQ(map.logits[i].relation, i == 99 ? Relation::different : Relation::equal) << i;
    EXPECT_EQ(position_of(map.logits[99].worst->key()), 299);
}

TEST(Map, RunsStandOneBehindTheOther) {
    SampleTrace second;
    second.run = 1;
    std::vector<std::string> lines = SampleTrace{}.lines();
    for (const std::string &line : second.lines()) lines.push_back(line);
    const Compared c = compared(lines, lines);
    const Map map = map_of(c.comparison, *c.a, *c.b);
    ASSERT_EQ(map.columns.size(), 8u);
    for (size_t i = 0; i < 8; ++i) {
        EXPECT_EQ(run_of(map.columns[i].first), int(i / 4));
        EXPECT_EQ(position_of(map.columns[i].first), int(i % 4));
    }
}

TEST(Map, WhatCannotBeMeasuredIsTheWorst) {
    SampleTrace b;
    b.fault = [](int seq, int layer, const std::string &stage, std::vector<float> &values) {
        if (layer == 1 && stage == "ffn_out" && seq == 1) values[2] = NAN;
        if (layer == 1 && stage == "ffn_out" && seq == 2) values[2] += 100;
    };
    const Compared c = compared({}, b);
    const Map map = map_of(c.comparison, *c.a, *c.b);
    for (size_t i = 0; i < map.stages.size(); ++i) {
        if (map.stages[i].stage->name != "ffn_out") continue;
        const Cell &cell = map.by_stage[2].cells[i];
        EXPECT_TRUE(std::isnan(cell.worst->distance));
        EXPECT_EQ(position_of(cell.worst->key()), 1);
    }
}

TEST(Map, SaysWhichSideRecordedAStage) {
    SampleTrace b;
    b.sub_norms = false;
    Options options;
    options.allow_missing = true;
    const Compared c = compared({}, b, options);
    const Map map = map_of(c.comparison, *c.a, *c.b);
    size_t n = 0;
    for (size_t i = 0; i < map.stages.size(); ++i) {
        const bool is_sub_norm = map.stages[i].stage->name.ends_with("sub_norm");
        EXPECT_TRUE(map.stages[i].in_a);
        EXPECT_EQ(map.stages[i].in_b, !is_sub_norm) << map.stages[i].stage->name;
        if (!is_sub_norm) continue;
        ++n;
        for (const MapRow &row : map.by_stage) EXPECT_EQ(row.cells[i].worst, nullptr);
    }
    EXPECT_EQ(n, 2u);
}

TEST(Map, AnotherRuleCanBeJudgedFromTheSamePairs) {
    SampleTrace b;
    b.fault = [](int seq, int, const std::string &stage, std::vector<float> &values) {
        if (seq == 2 && stage == "logits")
            for (float &value : values) value = -value;
    };
    for (const Rule rule : {Rule::hashes, Rule::distance, Rule::logits}) {
        Options options;
        options.rule = rule;
        options.max_distance = 100;
        const FreeRunning judged = judge_free_running(compared({}, b, options).comparison);
        EXPECT_EQ(judged.n_logits, 4u);
        EXPECT_EQ(judged.n_different, 1u);
    }
    EXPECT_EQ(judge_free_running(compared(SampleTrace{}, SampleTrace{}).comparison).n_different, 0u);
}

// One record of a pair was altered after it was hashed: no distance may speak for it.
TEST(Map, NoTolerancePassesRecordsThatContradictThemselves) {
    const std::vector<std::string> a = SampleTrace{}.lines();
    std::vector<std::string> b = a;
    std::string &line = b[line_of(b, 1, 1, "ffn_out")];
    const size_t at = line.find("\"zeros\":");
    ASSERT_NE(at, std::string::npos) << line;
    line.insert(at + 8, "1");
    const Comparison comparison = compared(a, b).comparison;
    EXPECT_EQ(comparison.counts.different, 1u);
    EXPECT_TRUE(comparison.no_tolerance_passes);
    EXPECT_FALSE(comparison.would_pass.has_value());
}

}  // namespace
}  // namespace bitnet
