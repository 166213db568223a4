#include "core/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

namespace bitnet {
namespace {

TEST(Sampler, GreedyTiesToTheLowestId) {
    const float logits[] = {1, 5, 5, -3};
    EXPECT_EQ(sample(logits, 4, {}, 0, nullptr, 0), 1);
}

TEST(Sampler, NanNeverWins) {
    const float nan = std::nanf("");
    const float logits[] = {nan, -5, nan, -4};
    EXPECT_EQ(sample(logits, 4, {}, 0, nullptr, 0), 3);
    EXPECT_EQ(top_logits(logits, 4, 4), (std::vector<int32_t>{3, 1, 0, 2}));
    SamplerSettings warm;
    warm.temperature = 1;
    for (uint64_t draw = 0; draw < 200; ++draw) {
        const int32_t token = sample(logits, 4, warm, draw, nullptr, 0);
        EXPECT_TRUE(token == 1 || token == 3) << token;
    }
}

TEST(Sampler, FrequenciesFollowTheSoftmax) {
    const float logits[] = {0.0f, 1.0f, 2.0f};
    SamplerSettings s;
    s.temperature = 1;
    s.seed = 42;
    std::map<int32_t, int> counts;
    const int n = 20000;
    for (int draw = 0; draw < n; ++draw) ++counts[sample(logits, 3, s, uint64_t(draw), nullptr, 0)];
    const double z = 1 + std::exp(1.0) + std::exp(2.0);
    for (int i = 0; i < 3; ++i) EXPECT_NEAR(counts[i] / double(n), std::exp(double(i)) / z, 0.012) << i;
}

// The same seed must give the same tokens on every machine for ever: a change here is a change of the product.
TEST(Sampler, GoldenDraws) {
    const float logits[] = {0.5f, 1.5f, -0.5f, 0.25f, 1.0f, 0.0f, 0.75f, -1.0f};
    SamplerSettings s;
    s.temperature = 0.8f;
    s.seed = 7;
    std::vector<int32_t> tokens;
    for (uint64_t draw = 0; draw < 12; ++draw) tokens.push_back(sample(logits, 8, s, draw, nullptr, 0));
    // Computed by an independent script from the definition (SplitMix64, logits descending, inverse CDF).
    EXPECT_EQ(tokens, (std::vector<int32_t>{4, 1, 5, 6, 4, 1, 4, 1, 1, 4, 1, 2}));
}

TEST(Sampler, TopKTopPMinP) {
    const float logits[] = {3, 2, 1, 0};
    SamplerSettings s;
    s.temperature = 1;
    const auto reached = [&] {
        std::map<int32_t, int> counts;
        for (uint64_t draw = 0; draw < 2000; ++draw) ++counts[sample(logits, 4, s, draw, nullptr, 0)];
        return counts.size();
    };
    EXPECT_EQ(reached(), 4u);
    s.top_k = 2;
    EXPECT_EQ(reached(), 2u);
    s.top_k = 0;
    s.top_p = 0.65f;  // the largest has 0.644
    EXPECT_EQ(reached(), 2u);
    s.top_p = 0.6f;
    EXPECT_EQ(reached(), 1u);
    s.top_p = 0;
    s.min_p = 0.3f;  // e^-1 = 0.37 stays, e^-2 = 0.14 goes
    EXPECT_EQ(reached(), 2u);
}

TEST(Sampler, RepeatPenalty) {
    const float logits[] = {2.0f, 1.9f, -1.0f};
    SamplerSettings s;
    s.repeat_penalty = 1.5f;
    const int32_t recent[] = {0, 0, -1};  // a position of embeddings has no token
    EXPECT_EQ(sample(logits, 3, s, 0, recent, 3), 1);
}

TEST(Sampler, LogProbability) {
    const float logits[] = {1000.0f, 1001.0f, 900.0f};
    EXPECT_NEAR(log_probability(logits, 3, 1), -std::log1p(std::exp(-1.0)), 1e-15);
    EXPECT_NEAR(log_probability(logits, 3, 2), -101 - std::log1p(std::exp(-1.0)), 1e-12);
}

}  // namespace
}  // namespace bitnet
