// Section 9 of the header: generating.
#include <algorithm>
#include <cmath>
#include <set>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

class Generate : public testing::Test {
protected:
    const Model model_ = load();
    Recorder recorder_;  // outlives the context that reports to it
    const Context ctx_ = context(model_.get());
    bitnet_generate_params_t params_ = make<bitnet_generate_params_t>();
    bitnet_ctx_t *ctx() { return ctx_.get(); }

    void SetUp() override {
        params_.flags = BITNET_GENERATE_IGNORE_END;
        restart();
    }
    void restart(int n = 5) {
        ASSERT_OK(bitnet_context_reset(ctx()));
        ASSERT_OK(eval(ctx(), prompt(n)));
    }
    std::vector<int32_t> run(size_t capacity = 64, bitnet_status_t expected = BITNET_OK) {
        std::vector<int32_t> out(capacity + 1, -7);
        size_t n = capacity;
        EXPECT_EQ(bitnet_generate(ctx(), &params_, out.data(), &n), expected) << bitnet_last_error();
        EXPECT_LE(n, capacity);
        EXPECT_EQ(out[n], -7) << "wrote behind what it reports";
        out.resize(std::min(n, capacity));
        return out;
    }
    // Greedy by hand, on another context.
    std::vector<int32_t> greedy(int n, float penalty = 1, size_t last_n = 64) {
        const Context other = context(model_.get());
        std::vector<int32_t> history = prompt(5), out;
        EXPECT_OK(eval(other.get(), history));
        for (int i = 0; i < n; ++i) {
            std::vector<float> logits = row(other.get());
            const size_t first = history.size() > last_n ? history.size() - last_n : 0;
            for (const int32_t id : std::set<int32_t>(history.begin() + int(first), history.end())) {
                float &l = logits[size_t(id)];
                l = l > 0 ? l / penalty : l * penalty;
            }
            out.push_back(int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin()));
            history.push_back(out.back());
            EXPECT_OK(eval(other.get(), {out.back()}));
        }
        return out;
    }
    std::string text(const std::vector<int32_t> &tokens) {
        size_t n = 0;
        EXPECT_OK(bitnet_detokenize(model_.get(), tokens.data(), tokens.size(), 0, nullptr, &n));
        std::string out(n, 0);
        EXPECT_OK(bitnet_detokenize(model_.get(), tokens.data(), tokens.size(), 0, out.data(), &n));
        out.pop_back();
        return out;
    }
};

TEST_F(Generate, GreedyIsTheManualLoop) {
    params_.max_tokens = 20;
    EXPECT_EQ(run(), greedy(20));
    EXPECT_EQ(bitnet_context_position(ctx()), 5 + 19) << "all but the last token have been evaluated";
}

TEST_F(Generate, GoesOnWhereItStopped) {
    params_.max_tokens = 7;
    std::vector<int32_t> first = run();
    ASSERT_OK(eval(ctx(), {first.back()}));
    const std::vector<int32_t> second = run();
    first.insert(first.end(), second.begin(), second.end());
    EXPECT_EQ(first, greedy(14));
}

TEST_F(Generate, RepetitionPenalty) {
    params_.max_tokens = 15;
    params_.repeat_penalty = 1.7f;
    const std::vector<int32_t> all = run();
    EXPECT_EQ(all, greedy(15, 1.7f));
    EXPECT_NE(all, greedy(15));
    restart();
    params_.repeat_last_n = 3;
    EXPECT_EQ(run(), greedy(15, 1.7f, 3));
}

TEST_F(Generate, SameSeedSameTokens) {
    params_.max_tokens = 30;
    params_.temperature = 1.5f;
    params_.seed = 42;
    const std::vector<int32_t> expected = run();
    for (const int n_threads : {1, 2, 3, 7}) {
        const Context other = context(model_.get(), 64, n_threads, n_threads);
        ASSERT_OK(eval(other.get(), prompt(5)));
        std::vector<int32_t> out(30);
        size_t n = 30;
        ASSERT_OK(bitnet_generate(other.get(), &params_, out.data(), &n));
        EXPECT_EQ(out, expected) << n_threads << " threads";
    }
    std::set<std::vector<int32_t>> different;
    for (params_.seed = 0; params_.seed < 8; ++params_.seed) {
        restart();
        different.insert(run());
    }
    EXPECT_EQ(different.size(), 8u);
}

// One token from the same logits with many seeds, without moving the context: how often each comes.
TEST_F(Generate, SamplesFollowTheDistribution) {
    const std::vector<float> logits = row(ctx());
    const auto counts = [&](int n) {
        std::map<int32_t, int> seen;
        params_.max_tokens = 1;
        for (params_.seed = 0; params_.seed < uint64_t(n); ++params_.seed) ++seen[run(1).at(0)];
        return seen;
    };
    const float temperature = 6;  // flat enough that many tokens come often
    params_.temperature = temperature;
    std::vector<std::pair<double, int32_t>> p;
    double sum = 0;
    const double largest = *std::max_element(logits.begin(), logits.end());
    for (int32_t i = 0; i < n_vocab; ++i) {
        p.emplace_back(std::exp((double(logits[size_t(i)]) - largest) / double(temperature)), i);
        sum += p.back().first;
    }
    for (auto &one : p) one.first /= sum;
    std::sort(p.begin(), p.end(), [](const auto &a, const auto &b) { return a.first > b.first; });

    const int n = 20000;
    const std::map<int32_t, int> plain = counts(n);
    int checked = 0;
    for (const auto &[probability, id] : p) {
        const double expected = probability * n;
        if (expected < 50) break;
        const auto it = plain.find(id);
        EXPECT_NEAR(it == plain.end() ? 0 : it->second, expected, 5 * std::sqrt(expected)) << "token " << id;
        ++checked;
    }
    EXPECT_GE(checked, 10);

    const auto expect_only_first = [&](size_t k, const char *what) {
        for (const auto &[id, count] : counts(2000)) {
            const auto at = std::find_if(p.begin(), p.end(), [&](const auto &one) { return one.second == id; });
            EXPECT_LT(size_t(at - p.begin()), k) << what;
        }
    };
    params_.top_k = 3;
    expect_only_first(3, "top_k");
    params_.top_k = 0;
    params_.top_p = 0.2f;
    size_t nucleus = 0;
    for (double mass = 0; mass < 0.2; ++nucleus) mass += p[nucleus].first;
    expect_only_first(nucleus, "top_p");
    params_.top_p = 0;
    params_.min_p = 0.3f;
    size_t likely = 0;
    while (p[likely].first >= 0.3 * p[0].first) ++likely;
    expect_only_first(likely, "min_p");
    params_.min_p = 0;
    params_.top_k = 1;
    EXPECT_EQ(counts(50).size(), 1u);
}

TEST_F(Generate, Ends) {
    const std::vector<int32_t> expected = greedy(20);
    // A token that did not come before: stopping at it keeps it, and what came before.
    size_t at = 1;
    while (std::find(expected.begin(), expected.begin() + int(at), expected[at]) != expected.begin() + int(at)) ++at;
    ASSERT_LT(at, expected.size());
    const int32_t stops[] = {n_vocab - 1 == expected[at] ? 0 : n_vocab - 1, expected[at]};
    params_.stop_tokens = stops;
    params_.n_stop_tokens = 2;
    EXPECT_EQ(run(), std::vector<int32_t>(expected.begin(), expected.begin() + int(at) + 1));

    // The model's own end token, which IGNORE_END had kept out of the way, by a row of logits that prefers it.
    params_ = make<bitnet_generate_params_t>();
    const int32_t eos = bitnet_token_special(model_.get(), BITNET_SPECIAL_EOS);
    Recorder &recorder = recorder_;
    recorder.on_event = [&](const bitnet_event_t *event) {
        if (event->type != BITNET_EVENT_TENSOR) return BITNET_OK;
        const auto *tensor = reinterpret_cast<const bitnet_tensor_event_t *>(event);
        const auto *host = recorder.host;
        const auto *override_ =
            static_cast<const bitnet_ext_override_t *>(host->get_extension(host, BITNET_EXT_OVERRIDE));
        std::vector<float> values(n_vocab, -1.0f);
        values[event->position == 7 ? size_t(eos) : size_t(33)] = 1.0f;
        for (uint32_t r = 0; r < tensor->n_rows; ++r)
            EXPECT_OK(override_->replace(host, tensor, r, values.data(), n_vocab));
        return BITNET_OK;
    };
    ASSERT_OK(bitnet_trace_set_sink(ctx(), &recorder.table, &recorder));
    ASSERT_OK(bitnet_trace_select(ctx(), "logits"));
    restart();
    EXPECT_EQ(run(), (std::vector<int32_t>{33, 33, 33, eos}));
    EXPECT_EQ(bitnet_context_position(ctx()), 8) << "the end token is not evaluated";
    restart();
    params_.flags = BITNET_GENERATE_IGNORE_END;
    params_.max_tokens = 6;
    EXPECT_EQ(run(), (std::vector<int32_t>{33, 33, 33, eos, 33, 33}));
}

TEST_F(Generate, StopStrings) {
    const std::vector<int32_t> expected = greedy(20);
    const std::string all = text(expected);
    // Two bytes that two tokens share, where they first appear.
    for (size_t at = 3; at + 2 < all.size(); at += 5) {
        const std::string stop = all.substr(at, 2);
        if (stop.find('\0') != std::string::npos) continue;
        restart();
        const char *const strings[] = {"no such text in it", stop.c_str()};
        params_.stop_strings = strings;
        params_.n_stop_strings = 2;
        params_.max_tokens = 20;
        const std::vector<int32_t> got = run();
        const size_t first = all.find(stop);
        size_t n = 1;
        while (text({expected.begin(), expected.begin() + int(n)}).size() < first + 2) ++n;
        EXPECT_EQ(got, std::vector<int32_t>(expected.begin(), expected.begin() + int(n))) << "at " << at;
    }
    const char *const empty[] = {""};
    params_.stop_strings = empty;
    params_.n_stop_strings = 1;
    run(4, BITNET_E_INVALID);
}

TEST_F(Generate, Bounds) {
    params_.max_tokens = 4;
    EXPECT_EQ(run(64).size(), 4u);
    restart();
    EXPECT_EQ(run(3).size(), 3u);
    EXPECT_EQ(run(0).size(), 0u);
    params_.max_tokens = 0;
    restart(60);
    const std::vector<int32_t> rest = run(64);  // four positions are left
    EXPECT_EQ(rest.size(), 5u);
    EXPECT_EQ(bitnet_context_position(ctx()), 64);
    EXPECT_EQ(run(64).size(), 1u) << "the last row can still be drawn from";

    ASSERT_OK(bitnet_context_reset(ctx()));
    run(4, BITNET_E_INVALID);  // no logits to draw from
    ASSERT_OK(eval(ctx(), prompt(3), BITNET_LOGITS_NONE));
    run(4, BITNET_E_INVALID);
}

TEST_F(Generate, WrongParameters) {
    const auto wrong = [&](auto bitnet_generate_params_t::*field, auto value, const char *name) {
        const bitnet_generate_params_t good = params_;
        params_.*field = value;
        run(4, BITNET_E_INVALID);
        EXPECT_NE(std::string(bitnet_last_error()).find(name), std::string::npos) << bitnet_last_error();
        params_ = good;
    };
    for (const float value : {NAN, INFINITY, -1.0f}) {
        wrong(&bitnet_generate_params_t::temperature, value, "temperature");
        wrong(&bitnet_generate_params_t::top_p, value, "top_p");
        wrong(&bitnet_generate_params_t::min_p, value, "min_p");
        wrong(&bitnet_generate_params_t::repeat_penalty, value, "repeat_penalty");
    }
    wrong(&bitnet_generate_params_t::max_tokens, -1, "max_tokens");
    wrong(&bitnet_generate_params_t::top_k, -1, "top_k");
    wrong(&bitnet_generate_params_t::repeat_last_n, -1, "repeat_last_n");
    wrong(&bitnet_generate_params_t::flags, 2u, "flags");
    EXPECT_EQ(bitnet_context_position(ctx()), 5);
    // The smallest temperature there is comes down to the largest logit.
    params_.temperature = 1e-45f;
    params_.max_tokens = 1;
    EXPECT_EQ(run(1), greedy(1));
}

struct Callback {
    bitnet_ctx_t *ctx;
    std::vector<int32_t> tokens;
    std::vector<std::vector<float>> logits;
    std::vector<int32_t> positions;
    size_t stop_after = SIZE_MAX;
    static int32_t call(void *user, int32_t token, const float *logits, int32_t n) {
        auto *self = static_cast<Callback *>(user);
        self->tokens.push_back(token);
        self->logits.emplace_back(logits, logits + n);
        self->positions.push_back(bitnet_context_position(self->ctx));
        return self->tokens.size() >= self->stop_after;
    }
};

TEST_F(Generate, CallbackSeesEachTokenBeforeItIsEvaluated) {
    Callback callback{ctx(), {}, {}, {}};
    params_.on_token = Callback::call;
    params_.on_token_user = &callback;
    params_.max_tokens = 6;
    const std::vector<float> first = row(ctx());
    EXPECT_EQ(run(), greedy(6));
    EXPECT_EQ(callback.tokens, greedy(6));
    EXPECT_EQ(callback.positions, (std::vector<int32_t>{5, 6, 7, 8, 9, 10}));
    EXPECT_EQ(callback.logits[0], first);
    ASSERT_EQ(callback.logits[0].size(), size_t(n_vocab));

    restart();
    callback = {ctx(), {}, {}, {}, 3};
    const std::vector<int32_t> kept = run(64, BITNET_E_CANCELLED);
    EXPECT_EQ(kept, greedy(3));
    EXPECT_EQ(bitnet_context_position(ctx()), 7);

    restart();
    callback = {ctx(), {}, {}, {}};
    size_t n = 0;
    ASSERT_OK(bitnet_generate(ctx(), &params_, nullptr, &n));
    EXPECT_EQ(n, 6u);
    EXPECT_EQ(callback.tokens, greedy(6));
}

Context certified_context(const bitnet_model_t *model, int n_threads = 1) {
    auto params = make<bitnet_context_params_t>();
    params.n_ctx = 64;
    params.n_threads = n_threads;
    params.head = BITNET_HEAD_CERTIFIED;
    bitnet_ctx_t *ctx = nullptr;
    EXPECT_OK(bitnet_context_create(model, &params, &ctx));
    return Context(ctx);
}

bitnet_head_stats_t head_stats(const bitnet_ctx_t *ctx) {
    auto stats = make<bitnet_head_stats_t>();
    EXPECT_OK(bitnet_context_get_head_stats(ctx, &stats));
    return stats;
}

std::vector<int32_t> generate(bitnet_ctx_t *ctx, const bitnet_generate_params_t &params, int n_prompt) {
    EXPECT_OK(bitnet_context_reset(ctx));
    EXPECT_OK(eval(ctx, prompt(n_prompt)));
    std::vector<int32_t> out(64);
    size_t n = out.size();
    EXPECT_OK(bitnet_generate(ctx, &params, out.data(), &n));
    out.resize(n);
    return out;
}

TEST_F(Generate, CertifiedHeadGivesTheFullHeadsTokens) {
    for (int i = 0; i < bitnet_isa_count(); ++i) {
        if (!bitnet_isa_usable(i)) continue;
        const Model model = load(nullptr, bitnet_isa_name(i));
        for (int n_threads : {1, 3}) {
            const Context ctx = certified_context(model.get(), n_threads);
            uint64_t asked = 0;
            for (int n_prompt : {1, 5, 20})
                for (int top_k : {0, 1, 5, 40, 100}) {  // 0: greedy
                    params_.temperature = top_k ? 0.9f : 0.0f;
                    params_.top_k = top_k;
                    params_.seed = uint64_t(top_k);
                    const std::vector<int32_t> tokens = generate(ctx.get(), params_, n_prompt);
                    EXPECT_EQ(tokens, generate(this->ctx(), params_, n_prompt)) << top_k;
                    asked += tokens.size();
                }
            const bitnet_head_stats_t stats = head_stats(ctx.get());
            const std::string isa = bitnet_isa_name(i);
            if (isa.substr(0, 3) == "avx") {
                EXPECT_EQ(stats.n_certified + stats.n_full, asked) << "every token is counted once";
                EXPECT_GT(stats.n_certified, asked / 5);
                EXPECT_GE(stats.n_rows_computed, stats.n_certified);
                EXPECT_GT(stats.n_bytes, uint64_t(n_vocab) * n_embd / 2);
                EXPECT_GT(stats.build_ns, 0u);
            } else {  // not worth it there: the full head, silently
                EXPECT_EQ(stats.n_certified, 0u);
                EXPECT_EQ(stats.n_bytes, 0u);
            }
        }
    }
}

TEST_F(Generate, CertifiedHeadComputesTheRowOnDemand) {
    const Context certified = certified_context(model_.get());
    generate(ctx(), params_, 5);
    params_.max_tokens = 10;
    const std::vector<int32_t> tokens = generate(certified.get(), params_, 5);
    EXPECT_EQ(tokens, generate(ctx(), params_, 5));
    EXPECT_EQ(bitnet_logits_count(certified.get()), 1);
    EXPECT_EQ(row(certified.get()), row(ctx())) << "bit for bit";
    EXPECT_EQ(row(certified.get()), row(ctx())) << "and again";
    int32_t best = -1;
    EXPECT_OK(bitnet_top_logits(certified.get(), -1, 1, &best, nullptr));
}

TEST_F(Generate, CertifiedHeadHandsOutNoRowToTheCallback) {
    const Context ctx = certified_context(model_.get());
    struct Seen {
        int with = 0, without = 0;
    } seen;
    params_.max_tokens = 12;
    params_.on_token = [](void *user, int32_t, const float *logits, int32_t) {
        ++(logits ? static_cast<Seen *>(user)->with : static_cast<Seen *>(user)->without);
        return 0;
    };
    params_.on_token_user = &seen;
    EXPECT_EQ(generate(ctx.get(), params_, 5).size(), 12u);
    const bitnet_head_stats_t stats = head_stats(ctx.get());
    EXPECT_EQ(uint64_t(seen.without), stats.n_certified);
    EXPECT_EQ(uint64_t(seen.with), 12 - stats.n_certified);
}

TEST_F(Generate, CertifiedHeadIsOffWhereEveryLogitCounts) {
    const Context certified = certified_context(model_.get());
    params_.repeat_penalty = 1.3f;
    EXPECT_EQ(generate(certified.get(), params_, 5), generate(ctx(), params_, 5));
    params_.repeat_penalty = 0;
    params_.temperature = 1;  // without top-k any token may be drawn
    EXPECT_EQ(generate(certified.get(), params_, 5), generate(ctx(), params_, 5));
    EXPECT_EQ(head_stats(certified.get()).n_certified, 0u);
    EXPECT_EQ(head_stats(ctx()).n_full, 0u) << "a context without it counts nothing";
}

TEST_F(Generate, CertifiedHeadLeavesTracedLogitsAlone) {
    const Context certified = certified_context(model_.get());
    ASSERT_OK(bitnet_trace_set_sink(certified.get(), &recorder_.table, &recorder_));
    ASSERT_OK(bitnet_trace_select(certified.get(), "logits"));
    params_.max_tokens = 4;
    EXPECT_EQ(generate(certified.get(), params_, 5), generate(ctx(), params_, 5));
    EXPECT_EQ(head_stats(certified.get()).n_certified, 0u);
    EXPECT_OK(bitnet_trace_set_sink(certified.get(), nullptr, nullptr));
}

TEST_F(Generate, DenseWeightsGiveTheSameTokensAndSayWhatTheyTake) {
    auto params = make<bitnet_context_params_t>();
    params.n_ctx = 64;
    params.n_threads = 2;
    params.weights = BITNET_WEIGHTS_DENSE;
    bitnet_ctx_t *made = nullptr;
    ASSERT_OK(bitnet_context_create(model_.get(), &params, &made));
    const Context dense(made);
    EXPECT_EQ(generate(dense.get(), params_, 5), generate(this->ctx(), params_, 5));
    EXPECT_EQ(row(dense.get()), row(this->ctx())) << "bit for bit";
    ASSERT_OK(bitnet_context_fork(dense.get(), &made));
    const Context fork(made);
    for (bitnet_ctx_t *ctx : {dense.get(), fork.get(), this->ctx()}) {
        auto stats = make<bitnet_weight_stats_t>();
        EXPECT_OK(bitnet_context_get_weight_stats(ctx, &stats));
        if (ctx == this->ctx()) {
            EXPECT_EQ(stats.dense, 0u);
        }
        if (ctx == fork.get()) {
            auto original = make<bitnet_weight_stats_t>();
            EXPECT_OK(bitnet_context_get_weight_stats(dense.get(), &original));
            EXPECT_EQ(stats.dense, original.dense);
        }
        EXPECT_EQ(stats.dense != 0, stats.n_bytes != 0 && stats.build_ns != 0);
    }
}

TEST_F(Generate, HeadParameters) {
    auto params = make<bitnet_context_params_t>();
    bitnet_ctx_t *made = nullptr;
    params.head = 2;
    expect_error(bitnet_context_create(model_.get(), &params, &made), BITNET_E_INVALID, {"head is 2", "certified"});
    params.head = 0;
    params.weights = 2;
    expect_error(bitnet_context_create(model_.get(), &params, &made), BITNET_E_INVALID, {"weights is 2", "dense"});
    auto stats = make<bitnet_head_stats_t>();
    expect_error(bitnet_context_get_head_stats(nullptr, &stats), BITNET_E_INVALID, {"ctx"});
    expect_error(bitnet_context_get_head_stats(ctx(), nullptr), BITNET_E_INVALID, {"out"});
}

}  // namespace
}  // namespace bitnet_test
