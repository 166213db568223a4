// Damaged traces never crash and never pass for whole: meant to run under sanitizers.
#include "abi/cli/diff/diff.h"
#include "abi/cli/diff/render.h"
#include "sample_trace.h"

#include <gtest/gtest.h>

#include <random>

namespace bitnet {
namespace {

using namespace diff;

class Fuzz : public testing::Test {
protected:
    void SetUp() override {
        SampleTrace sample;
        sample.n_layer = 2;
        sample.tokens = {1, 2};
        valid_ = joined(sample.lines());
        a_ = folder_.write_bytes("a.jsonl", valid_);
    }
    Verdict compare(const std::string &bytes) {
        Trace a, b;
        Options options;
        options.max_origins = 3;
        Report report = compare_files(a_, folder_.write_bytes("b.jsonl", bytes), options, a, b);
        EXPECT_TRUE(a.problems.empty());
        EXPECT_FALSE(render_text(report, a, b, options, false).empty());
        EXPECT_FALSE(render_json(report, a, b, options).empty());
        EXPECT_EQ(report.errors.empty(), report.verdict != Verdict::error);
        return report.verdict;
    }
    Folder folder_;
    std::string valid_, a_;
    std::mt19937 random_{20260131};
};

TEST_F(Fuzz, TruncatedAnywhereIsAnError) {
    EXPECT_EQ(compare(valid_), Verdict::match);
    for (int i = 0; i < 150; ++i) {
        size_t n = random_() % (valid_.size() - 1);
        EXPECT_EQ(compare(valid_.substr(0, n)), Verdict::error) << n;
    }
}

TEST_F(Fuzz, FlippedBytes) {
    int n_seen[3] = {};
    for (int i = 0; i < 600; ++i) {
        std::string bytes = valid_;
        for (uint32_t n = 1 + random_() % 3; n; --n) bytes[random_() % bytes.size()] ^= char(1u << random_() % 8);
        ++n_seen[int(compare(bytes))];
    }
    // Flips in fields that are not compared do no harm; most others are noticed.
    EXPECT_GT(n_seen[int(Verdict::error)], 100);
    EXPECT_GT(n_seen[int(Verdict::error)] + n_seen[int(Verdict::divergence)], n_seen[int(Verdict::match)]);
}

TEST_F(Fuzz, ReplacedDigitsAndDroppedRanges) {
    for (int i = 0; i < 300; ++i) {
        std::string bytes = valid_;
        for (int n = 0; n < 20; ++n) {
            char &c = bytes[random_() % bytes.size()];
            if (c >= '0' && c <= '9') c = char('0' + random_() % 10);
        }
        if (i % 2) bytes.erase(random_() % bytes.size(), random_() % 5000);
        compare(bytes);
    }
}

TEST_F(Fuzz, ShuffledLines) {
    SampleTrace sample;
    sample.n_layer = 2;
    sample.tokens = {1, 2};
    std::vector<std::string> lines = sample.lines();
    for (int i = 0; i < 50; ++i) {
        std::shuffle(lines.begin(), lines.end(), random_);
        compare(joined(lines));
    }
}

}  // namespace
}  // namespace bitnet
