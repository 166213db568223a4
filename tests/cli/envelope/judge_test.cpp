#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "abi/cli/envelope/classes.h"
#include "abi/cli/envelope/distance.h"
#include "abi/cli/envelope/envelope.h"
#include "abi/cli/envelope/file.h"
#include "abi/cli/envelope/measure.h"
#include "abi/cli/terminal.h"

namespace {

using namespace bitnet::envelope;

constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

Envelope sample() {
    Envelope envelope;
    envelope.subject = {"0.1.0", std::string(64, 'a'), "activation=relu2,kv=f32", {5, 6, 7}, 2};
    envelope.model_path = "a \"model\" \xff.gguf";
    for (const double size : {1e-7, 4e-3, 1e-3}) {  // the largest class moves this stage less than the one before
        ClassReach reach;
        reach.name = "class" + std::to_string(envelope.classes.size());
        reach.variations = {"kv=f16"};
        reach.stages = {{-1, "embeddings", 0, 0, -1}, {0, "q_proj", size, size * size, 1}};
        for (int i = 0; i < 3; i++)
            reach.logits.push_back({i, size, size * size, size * size, size * size, size, true});
        envelope.classes.push_back(reach);
    }
    return envelope;
}

TEST(Judge, ClassesAreNested) {
    const Judge judge(sample());
    EXPECT_DOUBLE_EQ(*judge.allowed(0, 0, "q_proj"), 5e-6);  // float32's floor
    EXPECT_DOUBLE_EQ(*judge.allowed(1, 0, "q_proj"), 1e-2);
    EXPECT_DOUBLE_EQ(*judge.allowed(2, 0, "q_proj"), 1e-2);
    EXPECT_EQ(*judge.smallest(0, "q_proj", 0), 0u);
    EXPECT_EQ(*judge.smallest(0, "q_proj", 5e-6), 0u);
    EXPECT_EQ(*judge.smallest(0, "q_proj", 6e-6), 1u);
    EXPECT_EQ(*judge.smallest(0, "q_proj", 1e-2), 1u);
    EXPECT_EQ(*judge.smallest(0, "q_proj", 1.01e-2), 3u);
}

TEST(Judge, WhatCannotBeMeasuredIsInNoClass) {
    const Judge judge(sample());
    EXPECT_EQ(*judge.smallest(0, "q_proj", nan_value), 3u);
    EXPECT_EQ(*judge.smallest(0, "q_proj", HUGE_VAL), 3u);
    EXPECT_FALSE(judge.smallest(1, "q_proj", 0));
    EXPECT_FALSE(judge.smallest(0, "q_proj.codes", 0));
}

TEST(Judge, EmbeddingsAreCopied) {
    const Judge judge(sample());
    EXPECT_EQ(*judge.smallest(-1, "embeddings", 0), 0u);
    EXPECT_EQ(*judge.smallest(-1, "embeddings", 1e-9), 3u);
}

TEST(Judge, LimitsOfLogits) {
    const Judge judge(sample());
    const bitnet_logits_limits_t limits = judge.limits(1);
    EXPECT_DOUBLE_EQ(limits.nmse_max, 6.25 * 1.6e-5);
    EXPECT_DOUBLE_EQ(limits.kl_max, 6.25 * 1.6e-5);
    EXPECT_DOUBLE_EQ(limits.max_abs_max, 1e-2);
    EXPECT_DOUBLE_EQ(limits.cosine_min, 1 - 6.25 * 1.6e-5);
    EXPECT_EQ(judge.limits(2).nmse_max, limits.nmse_max);
    EXPECT_LT(judge.limits(0).nmse_max, 1.6e-10);
}

bitnet_logits_row_t row_of(double nmse) {
    bitnet_logits_row_t row = {};
    row.struct_size = sizeof row;
    row.measured = BITNET_METRIC_NMSE | BITNET_METRIC_FINITE;
    row.n = 10;
    row.nmse = nmse;
    return row;
}

TEST(Judge, RowsOfLogits) {
    const Judge judge(sample());
    EXPECT_EQ(judge.smallest(row_of(1e-12)), 0u);
    EXPECT_EQ(judge.smallest(row_of(9e-5)), 1u);
    EXPECT_EQ(judge.smallest(row_of(1.1e-4)), 3u);
    bitnet_logits_row_t row = row_of(0);
    row.n_nonfinite = 1;
    EXPECT_EQ(judge.smallest(row), 3u);
}

TEST(Subject, Mismatches) {
    const Subject found = sample().subject;
    Subject wanted = found;
    EXPECT_EQ(mismatch(found, wanted), "");
    wanted.tokens = {5, 6};
    EXPECT_EQ(mismatch(found, wanted), "");
    wanted.tokens = {5, 6, 7, 8};
    EXPECT_EQ(mismatch(found, wanted), "token 3 is none, expected 8");
    wanted.tokens = {5, 1};
    EXPECT_EQ(mismatch(found, wanted), "token 1 is 6, expected 1");
    wanted = found, wanted.semantics = "activation=silu";
    EXPECT_NE(mismatch(found, wanted).find("semantics "), std::string::npos);
    wanted = found, wanted.model_hash[3] = 'b';
    EXPECT_NE(mismatch(found, wanted).find("model "), std::string::npos);
    wanted = found, wanted.engine_version = "9";
    EXPECT_EQ(mismatch(found, wanted), "engine version 0.1.0, expected 9");
}

TEST(Subject, KvOfTheContext) {
    EXPECT_EQ(with_kv("a=1,kv=f32,attn_q=f32", "f16"), "a=1,kv=f16,attn_q=f32");
    EXPECT_EQ(with_kv("kv=f32", "f16"), "kv=f16");
    EXPECT_EQ(with_kv("a=1,kv=f32", ""), "a=1,kv=f32");
    EXPECT_EQ(with_kv("a=1,kv=f32,kv@2=f16", "f16"), "a=1,kv=f16,kv@2=f16");
}

TEST(File, ComesBack) {
    const Envelope written = sample(), read = from_json(to_json(written), "x");
    EXPECT_EQ(mismatch(read.subject, written.subject), "");
    EXPECT_EQ(read.subject.n_seeds, 2);
    EXPECT_EQ(to_json(read), to_json(written));
    ASSERT_EQ(read.classes.size(), 3u);
    EXPECT_EQ(read.classes[1].stages[1].relative, 4e-3);
    EXPECT_EQ(read.classes[2].logits[2].kl, 1e-6);
}

std::string error_of(const std::string &text) {
    try {
        from_json(text, "x.json");
    } catch (const bitnet::CommandError &error) {
        return error.what();
    }
    return "";
}

TEST(File, EveryChangedDigitIsDamage) {
    const std::string good = to_json(sample());
    EXPECT_EQ(error_of(good), "");
    for (size_t i = 0; i < good.size(); i++) {
        if (good[i] < '0' || good[i] > '9') continue;
        std::string text = good;
        text[i] = text[i] == '9' ? '8' : char(text[i] + 1);
        const std::string error = error_of(text);
        if (error.empty()) {  // a last digit that is no other number
            EXPECT_EQ(to_json(from_json(text, "x")), good) << i;
        } else {
            EXPECT_EQ(error.rfind("x.json: ", 0), 0u) << i;
        }
    }
    for (size_t n = 0; n < good.size() - 2; n += 97)
        EXPECT_EQ(error_of(good.substr(0, n)).rfind("x.json: no JSON", 0), 0u);
}

TEST(File, OtherDocuments) {
    EXPECT_NE(error_of("[]").find("its kind is not"), std::string::npos);
    EXPECT_NE(error_of("{\"kind\":\"bitnet-envelope\",\"schema\":7}").find("schema 7, expected 1"), std::string::npos);
    EXPECT_NE(error_of("{\"kind\":\"bitnet-envelope\"}").find("damaged: "), std::string::npos);
}

TEST(Distance, Formulas) {
    const float a[] = {3, 4}, b[] = {3, 4.5f}, zeros[] = {0, 0}, bad[] = {NAN, 1};
    EXPECT_DOUBLE_EQ(distance_of(a, b, 2).relative, 0.1);
    EXPECT_NEAR(distance_of(a, b, 2).cosine_distance, 1 - 27 / (5 * std::sqrt(29.25)), 1e-15);
    EXPECT_EQ(distance_of(a, a, 2).relative, 0);
    EXPECT_TRUE(std::isinf(distance_of(zeros, a, 2).relative));
    EXPECT_EQ(distance_of(a, zeros, 2).relative, 1);
    EXPECT_EQ(distance_of(zeros, zeros, 2).relative, 0);
    EXPECT_TRUE(std::isnan(distance_of(a, bad, 2).relative));
    EXPECT_TRUE(std::isnan(distance_of(bad, bad, 2).relative));
    const float close[] = {3, std::nextafterf(4, 5)};
    const double step = (double(close[1]) - 4) / 5;
    EXPECT_NEAR(distance_of(a, close, 2).cosine_distance, 0.36 * step * step / 2, 1e-3 * step * step);
}

TEST(Classes, SmallPromptsGetMoreSeeds) {
    EXPECT_EQ(default_seeds(1), 16);
    EXPECT_EQ(default_seeds(8), 8);
    EXPECT_EQ(default_seeds(10), 7);
    EXPECT_EQ(default_seeds(1000), 2);
}

}  // namespace
