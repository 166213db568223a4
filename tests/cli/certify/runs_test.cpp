// The runs themselves, on the embedded demo model: each covers what it must, whatever the prompt's length.
#include "abi/cli/certify/runs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "abi/cli/session.h"

namespace bitnet::certify {
namespace {

std::set<std::string> texts(const std::vector<Plan> &all) {
    std::set<std::string> texts;
    for (const Plan &plan : all) texts.insert(plan.text());
    return texts;
}

TEST(Plans, AreDifferentAndCoverWhatTheySay) {
    for (const std::vector<int> &threads : {std::vector<int>{1}, {1, 2}, {1, 2, 3, 64}}) {
        for (const bool quick : {false, true}) {
            const std::vector<Plan> all = plans(threads, quick);
            EXPECT_EQ(texts(all).size(), all.size());
            std::set<int> counts;
            for (const Plan &plan : all) counts.insert(plan.n_threads);
            EXPECT_TRUE(counts.contains(threads.front()) && counts.contains(threads.back()));
            EXPECT_TRUE(quick || counts.size() == threads.size());
            EXPECT_TRUE(std::any_of(all.begin(), all.end(), [](const Plan &plan) { return !plan.traced; }));
        }
        std::set<ContextUse> uses;
        for (const Plan &plan : plans(threads, false)) uses.insert(plan.use);
        EXPECT_EQ(uses.size(), 5u);
    }
    EXPECT_EQ(description({1, 4}, false).find("threads 1 4; prompt whole"), 0u);
}

TEST(Plan, Text) {
    EXPECT_EQ((Plan{1, {}}.text()), "1 thread, prompt whole");
    EXPECT_EQ((Plan{2, {1}, 3, ContextUse::forked, false}.text()),
              "2 threads, token by token, n_batch 3, forked context, untraced");
    EXPECT_EQ((Plan{3, {1, SIZE_MAX}, 0, ContextUse::reset}.text()), "3 threads, chunks of 1 the rest, reset context");
}

// Prompts from one token on: halves of nothing, chunks longer than the prompt.
TEST(Execute, EveryPlanRepeatsTheReference) {
    const ModelHandle model = load_model({});
    for (const auto &[n_prompt, n_decode] : {std::pair(1, 0), {1, 2}, {2, 1}, {5, 0}, {9, 3}}) {
        Workload work{{}, n_decode, {}};
        for (int i = 0; i < n_prompt; i++) work.prompt.push_back((i * 37 + 11) % 480);
        work.saved = saved_half(model.get(), work);
        std::vector<Row> rows;
        const std::vector<int32_t> chosen =
            execute(model.get(), work, Plan(), [&](const Row &row) { rows.push_back(row); });
        EXPECT_EQ(chosen.size(), size_t(n_decode));
        // 34 stages with companions in each of 4 layers, embeddings, final norm, logits.
        EXPECT_EQ(rows.size(), size_t(n_prompt + n_decode) * (4 * 34 + 3));
        const Reference reference(rows);
        for (const Plan &plan : plans({1, 2}, false)) {
            Comparison comparison(reference);
            EXPECT_EQ(execute(model.get(), work, plan, [&](const Row &row) { comparison.add(row); }), chosen);
            EXPECT_GT(comparison.n_compared(), 0u) << plan.text();
            EXPECT_EQ(comparison.n_different(), 0u) << plan.text();
            EXPECT_EQ(comparison.n_unknown(), 0u) << plan.text();
            EXPECT_EQ(comparison.n_missing(coverage_of(plan, work)), 0u) << plan.text();
        }
    }
}

// Other arithmetic is seen by every plan, in its first position.
TEST(Execute, EveryPlanSeesOtherArithmetic) {
    const ModelHandle model = load_model({}), other = load_model({"", "", "", {"eps=1.1e-5"}});
    Workload work{{11, 48, 85, 122, 159, 196}, 1, {}};
    std::vector<Row> rows;
    execute(model.get(), work, Plan(), [&](const Row &row) { rows.push_back(row); });
    const Reference reference(rows);
    work.saved = saved_half(other.get(), work);
    for (const Plan &plan : plans({1, 2}, false)) {
        Comparison comparison(reference);
        execute(other.get(), work, plan, [&](const Row &row) { comparison.add(row); });
        ASSERT_NE(comparison.first_expected(), nullptr) << plan.text();
        const RowId first = comparison.first_expected()->id;
        EXPECT_EQ(first.position, plan.use == ContextUse::restored ? work.half() : 0) << plan.text();
        EXPECT_EQ(first.stage, plan.traced ? BITNET_STAGE_ATTN_NORM : BITNET_STAGE_FINAL_NORM) << plan.text();
    }
}

// A restored plan whose saved state is of other tokens is seen: the reuse is real.
TEST(Execute, TheSavedStateIsUsed) {
    const ModelHandle model = load_model({});
    Workload work{{11, 48, 85, 122, 159, 196}, 0, {}}, wrong{{12, 48, 85, 122, 159, 196}, 0, {}};
    std::vector<Row> rows;
    execute(model.get(), work, Plan(), [&](const Row &row) { rows.push_back(row); });
    const Reference reference(rows);
    work.saved = saved_half(model.get(), wrong);
    Comparison comparison(reference);
    execute(model.get(), work, {1, {}, 0, ContextUse::restored}, [&](const Row &row) { comparison.add(row); });
    ASSERT_NE(comparison.first_expected(), nullptr);
    EXPECT_EQ(comparison.first_expected()->id, (RowId{3, 0, BITNET_STAGE_ATTN_SCORES}));
}

}  // namespace
}  // namespace bitnet::certify
