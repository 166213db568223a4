// Sections 7 and 8 of the header: evaluating, logits.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

class Eval : public testing::Test {
protected:
    const Model model_ = load();
    Recorder tensors_{uint64_t(1) << BITNET_EVENT_TENSOR};  // outlives the context that reports to it
    const Context ctx_ = context(model_.get());
    bitnet_ctx_t *ctx() { return ctx_.get(); }
};

TEST_F(Eval, KeepsTheRowsItWasAskedFor) {
    const std::vector<int32_t> tokens = prompt(6);
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    ASSERT_EQ(bitnet_logits_count(ctx()), 6);
    const std::vector<float> all = rows(ctx());
    for (int i = 0; i < 6; ++i) {
        EXPECT_EQ(row(ctx(), i), logits_after(model_.get(), {tokens.begin(), tokens.begin() + i + 1})) << i;
        EXPECT_EQ(bitnet_get_logits_ith(ctx(), i), bitnet_get_logits_ith(ctx(), i - 6));
    }
    for (const int32_t i : {6, -7, INT32_MAX, INT32_MIN}) {
        EXPECT_EQ(bitnet_get_logits_ith(ctx(), i), nullptr);
        expect_error(BITNET_E_INVALID, BITNET_E_INVALID, {std::to_string(i), "6 rows"});
        EXPECT_EQ(bitnet_get_hidden_ith(ctx(), i), nullptr);
        size_t n = n_vocab;
        std::vector<float> out(n_vocab);
        expect_error(bitnet_copy_logits(ctx(), i, out.data(), &n), BITNET_E_INVALID);
    }
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_NONE));
    EXPECT_EQ(bitnet_logits_count(ctx()), 0);
    EXPECT_EQ(bitnet_get_logits_ith(ctx(), -1), nullptr);
    EXPECT_EQ(bitnet_context_position(ctx()), 6);
    ASSERT_OK(bitnet_context_truncate(ctx(), 5));
    ASSERT_OK(eval(ctx(), {tokens[5]}, BITNET_LOGITS_LAST));
    EXPECT_EQ(bitnet_logits_count(ctx()), 1);
    EXPECT_TRUE(std::equal(all.end() - n_vocab, all.end(), row(ctx()).begin()));
    auto params = make<bitnet_eval_params_t>();
    params.logits = 3;
    expect_error(bitnet_eval_tokens(ctx(), tokens.data(), 1, &params), BITNET_E_INVALID, {"logits", "3"});
}

// What bindings build arrays on.
TEST_F(Eval, RowsLieOneAfterAnotherAndStayUntilMoreAreKept) {
    const std::vector<int32_t> tokens = prompt(6);
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    const float *logits = bitnet_get_logits_ith(ctx(), 0), *hidden = bitnet_get_hidden_ith(ctx(), 0);
    auto info = make<bitnet_model_info_t>();
    ASSERT_OK(bitnet_model_get_info(model_.get(), &info));
    for (int i = 1; i < 6; ++i) {
        EXPECT_EQ(bitnet_get_logits_ith(ctx(), i), logits + i * info.n_vocab);
        EXPECT_EQ(bitnet_get_hidden_ith(ctx(), i), hidden + i * info.n_embd);
    }
    ASSERT_OK(bitnet_context_truncate(ctx(), 3));
    for (const uint32_t keep : {BITNET_LOGITS_LAST, BITNET_LOGITS_ALL}) {
        ASSERT_OK(eval(ctx(), {tokens.begin(), tokens.begin() + 5}, keep));
        EXPECT_EQ(bitnet_get_logits_ith(ctx(), 0), logits);
        EXPECT_EQ(bitnet_get_hidden_ith(ctx(), 0), hidden);
    }
    ASSERT_OK(bitnet_context_reset(ctx()));
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    EXPECT_EQ(bitnet_get_logits_ith(ctx(), 0), logits);
    EXPECT_EQ(bitnet_get_hidden_ith(ctx(), 0), hidden);
}

TEST_F(Eval, SameBitsForEverySplitBatchAndThreadCount) {
    const std::vector<int32_t> tokens = prompt(11);
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    const std::vector<float> expected = rows(ctx());
    for (const int n_threads : {1, 2, 3, 7})
        for (const int n_batch : {1, 3, 64})
            for (const size_t part : {1, 4, 11}) {
                const Context other = context(model_.get(), 32, n_threads, n_batch);
                std::vector<float> got;
                for (size_t i = 0; i < tokens.size(); i += part) {
                    const size_t end = std::min(i + part, tokens.size());
                    ASSERT_OK(
                        eval(other.get(), {tokens.begin() + int(i), tokens.begin() + int(end)}, BITNET_LOGITS_ALL));
                    const std::vector<float> some = rows(other.get());
                    got.insert(got.end(), some.begin(), some.end());
                }
                EXPECT_EQ(got, expected) << n_threads << " threads, batch " << n_batch << ", parts of " << part;
            }
}

TEST_F(Eval, InvalidTokensLeaveTheContextAlone) {
    ASSERT_OK(eval(ctx(), prompt(4)));
    for (const int32_t token : {-1, n_vocab, INT32_MAX, INT32_MIN}) {
        expect_error(eval(ctx(), {1, 2, token}), BITNET_E_INVALID, {"token 2", std::to_string(token), "511"});
        EXPECT_EQ(bitnet_context_position(ctx()), 4);
    }
    const int32_t token = 1;
    expect_error(bitnet_eval_tokens(ctx(), &token, 0, nullptr), BITNET_E_INVALID, {"0 tokens"});
    expect_error(bitnet_eval_tokens(ctx(), &token, SIZE_MAX, nullptr), BITNET_E_OVERFLOW);
    ASSERT_OK(eval(ctx(), {50}));
    std::vector<int32_t> tokens = prompt(4);
    tokens.push_back(50);
    EXPECT_EQ(row(ctx()), logits_after(model_.get(), tokens));
}

TEST_F(Eval, AWrongArgumentLeavesTheLogits) {
    const auto failing = std::vector<std::function<bitnet_status_t()>>{
        [&] { return eval(ctx(), {n_vocab}); },
        [&] { return eval(ctx(), {}); },
        [&] { return eval(ctx(), prompt(100)); },
    };
    ASSERT_OK(eval(ctx(), prompt(4)));
    const std::vector<float> before = row(ctx());
    for (size_t i = 0; i < failing.size(); ++i) {
        EXPECT_LT(failing[i](), 0);
        ASSERT_EQ(bitnet_logits_count(ctx()), 1) << "case " << i;
        EXPECT_EQ(row(ctx()), before) << "case " << i;
    }
}

TEST_F(Eval, FullContext) {
    const Context small = context(model_.get(), 8);
    ASSERT_OK(eval(small.get(), prompt(8)));
    expect_error(eval(small.get(), {1}), BITNET_E_OVERFLOW, {"position 8", "8 positions"});
    ASSERT_OK(bitnet_context_truncate(small.get(), 6));
    expect_error(eval(small.get(), {1, 2, 3}), BITNET_E_OVERFLOW);
    EXPECT_EQ(bitnet_context_position(small.get()), 6);
    const std::vector<int32_t> tokens = prompt(8);
    ASSERT_OK(eval(small.get(), {tokens[6], tokens[7]}));
    EXPECT_EQ(row(small.get()), logits_after(model_.get(), tokens));
}

TEST_F(Eval, EmbeddingsInPlaceOfTokens) {
    const std::vector<int32_t> tokens = prompt(5);
    Recorder &recorder = tensors_;
    ASSERT_OK(bitnet_trace_set_sink(ctx(), &recorder.table, &recorder));
    ASSERT_OK(bitnet_trace_select(ctx(), "embeddings"));
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    const std::vector<float> expected = rows(ctx());
    std::vector<float> embeddings;
    for (const Seen &s : recorder.seen)
        for (const auto &one : s.rows) {
            const std::vector<float> values = floats(one);
            embeddings.insert(embeddings.end(), values.begin(), values.end());
        }
    ASSERT_EQ(embeddings.size(), size_t(5 * n_embd));

    const Context other = context(model_.get(), 16, 1, 2);
    auto params = make<bitnet_eval_params_t>();
    params.embeddings = embeddings.data();
    params.logits = BITNET_LOGITS_ALL;
    ASSERT_OK(bitnet_eval_tokens(other.get(), nullptr, 5, &params));
    EXPECT_EQ(rows(other.get()), expected);
    embeddings[3] += 1;
    ASSERT_OK(bitnet_context_reset(other.get()));
    ASSERT_OK(bitnet_eval_tokens(other.get(), nullptr, 5, &params));
    EXPECT_NE(rows(other.get()), expected);
    // The penalty has no tokens to look at, but generating goes on.
    auto generate = make<bitnet_generate_params_t>();
    generate.max_tokens = 3;
    generate.repeat_penalty = 1.3f;
    int32_t out[3];
    size_t n = 3;
    EXPECT_OK(bitnet_generate(other.get(), &generate, out, &n));
}

TEST_F(Eval, EmbeddingsThatAreNotFiniteDoNotCrash) {
    std::vector<float> embeddings(3 * n_embd, 0.0f);
    embeddings[5] = NAN;
    embeddings[n_embd + 5] = INFINITY;
    embeddings[2 * n_embd] = 3e38f;
    auto params = make<bitnet_eval_params_t>();
    params.embeddings = embeddings.data();
    params.logits = BITNET_LOGITS_ALL;
    ASSERT_OK(bitnet_eval_tokens(ctx(), nullptr, 3, &params));
    int32_t ids[n_vocab];
    for (int i = 0; i < 3; ++i) {
        ASSERT_OK(bitnet_top_logits(ctx(), i, n_vocab, ids, nullptr));
        std::sort(ids, ids + n_vocab);
        for (int32_t id = 0; id < n_vocab; ++id) ASSERT_EQ(ids[id], id);
    }
    auto generate = make<bitnet_generate_params_t>();
    generate.max_tokens = 3;
    generate.temperature = 1;
    int32_t out[3];
    size_t n = 3;
    EXPECT_OK(bitnet_generate(ctx(), &generate, out, &n));
}

struct Countdown {
    int left;
    int asked = 0;
    static int32_t cancel(void *user) {
        auto *self = static_cast<Countdown *>(user);
        ++self->asked;
        return self->left-- <= 0;
    }
};

TEST_F(Eval, CancelAtEveryChance) {
    const std::vector<int32_t> first = prompt(4), second = {100, 101, 102, 103, 104};
    std::vector<int32_t> both = first;
    both.insert(both.end(), second.begin(), second.end());
    const std::vector<float> expected = logits_after(model_.get(), both);
    const Context batched = context(model_.get(), 16, 2, 2);
    ASSERT_OK(eval(batched.get(), first));
    auto params = make<bitnet_eval_params_t>();
    params.cancel = Countdown::cancel;
    int n_cancelled = 0;
    for (int chance = 0;; ++chance) {
        Countdown countdown{chance};
        params.cancel_user = &countdown;
        const bitnet_status_t status = bitnet_eval_tokens(batched.get(), second.data(), second.size(), &params);
        if (status == BITNET_OK) break;
        expect_error(status, BITNET_E_CANCELLED, {"cancel"});
        ASSERT_EQ(countdown.asked, chance + 1) << "asked again after it was cancelled";
        ASSERT_EQ(bitnet_context_position(batched.get()), 4);
        ASSERT_EQ(bitnet_get_logits_ith(batched.get(), -1), nullptr);
        ++n_cancelled;
    }
    EXPECT_EQ(n_cancelled, 3 * n_layer);  // three batches of 2, 2 and 1 rows
    EXPECT_EQ(bitnet_context_position(batched.get()), 9);
    EXPECT_EQ(row(batched.get()), expected);
}

TEST_F(Eval, HiddenIsTheFinalNorm) {
    Recorder &recorder = tensors_;
    ASSERT_OK(bitnet_trace_set_sink(ctx(), &recorder.table, &recorder));
    ASSERT_OK(bitnet_trace_select(ctx(), "final_norm"));
    ASSERT_OK(eval(ctx(), prompt(5), BITNET_LOGITS_ALL));
    const auto traced = recorder.by_key();
    ASSERT_EQ(traced.size(), 5u);
    for (int i = 0; i < 5; ++i) {
        const float *hidden = bitnet_get_hidden_ith(ctx(), i - 5);
        ASSERT_NE(hidden, nullptr);
        EXPECT_EQ(floats(traced.at({i, -1, BITNET_STAGE_FINAL_NORM})), std::vector<float>(hidden, hidden + n_embd));
    }
}

TEST_F(Eval, CopiedLogits) {
    ASSERT_OK(eval(ctx(), prompt(3), BITNET_LOGITS_ALL));
    std::vector<float> out(n_vocab);
    size_t n = out.size();
    ASSERT_OK(bitnet_copy_logits(ctx(), 1, out.data(), &n));
    EXPECT_EQ(n, size_t(n_vocab));
    EXPECT_EQ(out, row(ctx(), 1));
    EXPECT_NE(out, row(ctx(), 2));
}

TEST_F(Eval, LogProbabilities) {
    const std::vector<int32_t> tokens = prompt(7);
    ASSERT_OK(eval(ctx(), tokens, BITNET_LOGITS_ALL));
    for (int32_t first = 0; first < n_vocab; first += 73) {
        std::vector<int32_t> asked(7);
        for (int i = 0; i < 7; ++i) asked[size_t(i)] = (first + 31 * i) % n_vocab;
        std::vector<double> got(7, NAN);
        ASSERT_OK(bitnet_token_logprobs(ctx(), asked.data(), 7, got.data()));
        for (int i = 0; i < 7; ++i) {
            const std::vector<float> logits = row(ctx(), i);
            long double sum = 0;
            for (const float l : logits) sum += std::exp((long double)(l));
            const double expected = double((long double)(logits[size_t(asked[size_t(i)])]) - std::log(sum));
            EXPECT_NEAR(got[size_t(i)], expected, 1e-12 * (1 + std::fabs(expected)));
        }
    }
    std::vector<double> one(2, -99.0);
    ASSERT_OK(bitnet_token_logprobs(ctx(), tokens.data(), 1, one.data()));
    EXPECT_EQ(one[1], -99.0);
    std::vector<double> out(8, -99.0);
    std::vector<int32_t> many(8, 1);
    expect_error(bitnet_token_logprobs(ctx(), many.data(), 8, out.data()), BITNET_E_INVALID, {"8", "7 rows"});
    many[3] = n_vocab;
    expect_error(bitnet_token_logprobs(ctx(), many.data(), 5, out.data()), BITNET_E_INVALID, {"token 3", "512"});
    EXPECT_EQ(out, std::vector<double>(8, -99.0));
}

TEST_F(Eval, TopLogits) {
    ASSERT_OK(eval(ctx(), prompt(3)));
    const std::vector<float> logits = row(ctx());
    std::vector<int32_t> order(n_vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return logits[size_t(a)] > logits[size_t(b)]; });
    for (const int32_t k : {1, 2, 10, n_vocab}) {
        std::vector<int32_t> ids(size_t(k) + 1, -7);
        std::vector<float> values(size_t(k) + 1, -7.0f);
        ASSERT_OK(bitnet_top_logits(ctx(), -1, k, ids.data(), values.data()));
        for (int32_t i = 0; i < k; ++i) {
            EXPECT_EQ(ids[size_t(i)], order[size_t(i)]);
            EXPECT_EQ(values[size_t(i)], logits[size_t(order[size_t(i)])]);
        }
        EXPECT_EQ(ids[size_t(k)], -7);
        EXPECT_EQ(values[size_t(k)], -7.0f);
    }
    for (const int32_t k : {0, -1, n_vocab + 1, INT32_MAX})
        expect_error(bitnet_top_logits(ctx(), -1, k, nullptr, nullptr), BITNET_E_INVALID, {std::to_string(k), "512"});
    expect_error(bitnet_top_logits(ctx(), 1, 1, nullptr, nullptr), BITNET_E_INVALID);
}

}  // namespace
}  // namespace bitnet_test
