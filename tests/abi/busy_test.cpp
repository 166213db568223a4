// Several threads and re-entry: a context refuses a second user, a model takes any number.
#include <atomic>
#include <future>
#include <thread>

#include "tests/abi/support.h"

namespace bitnet_test {
namespace {

// Every function that enters a context, on one that is in use.
void expect_busy(const bitnet_model_t *model, bitnet_ctx_t *ctx) {
    const int32_t token = 5;
    int32_t out[4];
    float copied[n_vocab];
    double logprob = 0;
    size_t n = 4;
    Recorder recorder;  // never attached
    bitnet_ctx_t *fork = nullptr;
    const int32_t position = bitnet_context_position(ctx);
    const std::vector<std::pair<const char *, std::function<bitnet_status_t()>>> calls = {
        {"eval", [&] { return bitnet_eval_tokens(ctx, &token, 1, nullptr); }},
        {"generate", [&] { return bitnet_generate(ctx, nullptr, out, &n); }},
        {"reset", [&] { return bitnet_context_reset(ctx); }},
        {"truncate", [&] { return bitnet_context_truncate(ctx, 0); }},
        {"fork", [&] { return bitnet_context_fork(ctx, &fork); }},
        {"save", [&] { return bitnet_context_save(ctx, nullptr, &n); }},
        {"restore", [&] { return bitnet_context_restore(ctx, out, sizeof out); }},
        {"copy_logits", [&] { return bitnet_copy_logits(ctx, 0, copied, &(n = n_vocab)); }},
        {"get_logits", [&] { return bitnet_get_logits_ith(ctx, 0) ? BITNET_OK : BITNET_E_BUSY; }},
        {"get_hidden", [&] { return bitnet_get_hidden_ith(ctx, 0) ? BITNET_OK : BITNET_E_BUSY; }},
        {"logprobs", [&] { return bitnet_token_logprobs(ctx, &token, 1, &logprob); }},
        {"top_logits", [&] { return bitnet_top_logits(ctx, 0, 1, out, nullptr); }},
        {"set_sink", [&] { return bitnet_trace_set_sink(ctx, &recorder.table, &recorder); }},
        {"detach", [&] { return bitnet_trace_set_sink(ctx, nullptr, nullptr); }},
        {"load_plugin", [&] { return bitnet_trace_load_plugin(ctx, "null", nullptr); }},
        {"select", [&] { return bitnet_trace_select(ctx, "logits"); }},
        {"set_prompt", [&] { return bitnet_trace_set_prompt(ctx, "x", 1); }},
        {"end_run", [&] { return bitnet_trace_end_run(ctx); }},
    };
    for (const auto &[name, call] : calls) {
        const bitnet_status_t status = call();
        EXPECT_STREQ(bitnet_status_name(status), "BITNET_E_BUSY") << name << ": " << bitnet_last_error();
        EXPECT_NE(std::string(bitnet_last_error()).find("in use"), std::string::npos) << name;
    }
    EXPECT_EQ(fork, nullptr);
    EXPECT_EQ(recorder.n_opened, 0);
    EXPECT_EQ(bitnet_context_position(ctx), position);
    // The model is nobody's in particular.
    EXPECT_OK(bitnet_tokenize_text(model, "x", 1, 0, nullptr, &n));
    EXPECT_EQ(bitnet_context_capacity(ctx), 64);
    auto stats = make<bitnet_trace_stats_t>();
    EXPECT_OK(bitnet_trace_get_stats(ctx, &stats));
}

struct Reentry {
    const bitnet_model_t *model;
    bitnet_ctx_t *ctx;
    int n = 0;
    static int32_t cancel(void *user) {
        auto *self = static_cast<Reentry *>(user);
        if (!self->n++) expect_busy(self->model, self->ctx);
        return 0;
    }
    static int32_t on_token(void *user, int32_t, const float *, int32_t) { return cancel(user); }
};

TEST(Busy, FromTheCancelCallback) {
    const Model model = load();
    const Context ctx = context(model.get());
    Reentry reentry{model.get(), ctx.get()};
    auto params = make<bitnet_eval_params_t>();
    params.cancel = Reentry::cancel;
    params.cancel_user = &reentry;
    const std::vector<int32_t> tokens = prompt(4);
    ASSERT_OK(bitnet_eval_tokens(ctx.get(), tokens.data(), tokens.size(), &params));
    EXPECT_EQ(reentry.n, n_layer);
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), tokens));
}

TEST(Busy, FromTheTokenCallback) {
    const Model model = load();
    const Context ctx = context(model.get());
    Reentry reentry{model.get(), ctx.get()};
    auto params = make<bitnet_generate_params_t>();
    params.on_token = Reentry::on_token;
    params.on_token_user = &reentry;
    params.max_tokens = 3;
    ASSERT_OK(eval(ctx.get(), prompt(4)));
    int32_t out[3];
    size_t n = 3;
    ASSERT_OK(bitnet_generate(ctx.get(), &params, out, &n));
    EXPECT_EQ(reentry.n, 3);
}

TEST(Busy, FromASink) {
    const Model model = load();
    Recorder recorder;
    const Context ctx = context(model.get());
    bool asked = false;
    recorder.on_event = [&](const bitnet_event_t *event) {
        if (event->type == BITNET_EVENT_TENSOR && !asked) {
            asked = true;
            expect_busy(model.get(), ctx.get());
        }
        return BITNET_OK;
    };
    ASSERT_OK(bitnet_trace_set_sink(ctx.get(), &recorder.table, &recorder));
    ASSERT_OK(eval(ctx.get(), prompt(4)));
    EXPECT_TRUE(asked);
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), prompt(4)));
}

struct Gate {
    std::promise<void> inside, go_on;
    bool first = true;
    static int32_t wait(void *user) {
        auto *self = static_cast<Gate *>(user);
        if (self->first) {
            self->first = false;
            self->inside.set_value();
            self->go_on.get_future().wait();
        }
        return 0;
    }
};

TEST(Busy, FromAnotherThread) {
    const Model model = load();
    const Context ctx = context(model.get(), 64, 2);
    Gate gate;
    auto params = make<bitnet_eval_params_t>();
    params.cancel = Gate::wait;
    params.cancel_user = &gate;
    const std::vector<int32_t> tokens = prompt(4);
    bitnet_status_t status = BITNET_E_INTERNAL;
    std::thread evaluating([&] { status = bitnet_eval_tokens(ctx.get(), tokens.data(), tokens.size(), &params); });
    gate.inside.get_future().wait();
    expect_busy(model.get(), ctx.get());
    gate.go_on.set_value();
    evaluating.join();
    EXPECT_OK(status);
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), tokens));
}

TEST(Threads, ManyContextsOfOneModel) {
    const Model model = load();
    const std::vector<int32_t> tokens = prompt(9);
    const std::vector<float> expected = logits_after(load().get(), tokens);
    constexpr int n = 8;
    std::vector<std::vector<float>> got(n);
    std::vector<std::string> hashes(n);
    std::vector<size_t> traced(n);
    std::vector<std::thread> threads;
    for (int i = 0; i < n; ++i)
        threads.emplace_back([&, i] {
            Recorder recorder;
            const Context ctx = context(model.get(), 32, i % 3 + 1, i + 1, BITNET_KV_F32);
            const bool traced_too = i % 2 == 1;
            EXPECT_OK(bitnet_trace_set_sink(ctx.get(), traced_too ? &recorder.table : nullptr, &recorder));
            for (int again = 0; again < 3; ++again) {
                EXPECT_OK(bitnet_context_reset(ctx.get()));
                EXPECT_OK(eval(ctx.get(), tokens));
            }
            got[size_t(i)] = row(ctx.get());
            char hash[65];
            size_t size = sizeof hash;
            EXPECT_OK(bitnet_model_hash(model.get(), hash, &size));
            hashes[size_t(i)] = hash;
            traced[size_t(i)] = recorder.seen.size();
            size_t count = 0;
            EXPECT_OK(bitnet_tokenize_text(model.get(), "some text", SIZE_MAX, 0, nullptr, &count));
        });
    for (std::thread &thread : threads) thread.join();
    for (int i = 0; i < n; ++i) {
        EXPECT_EQ(got[size_t(i)], expected) << "thread " << i;
        EXPECT_EQ(hashes[size_t(i)], hashes[0]);
        EXPECT_EQ(traced[size_t(i)] > 0, i % 2 == 1);
    }
}

TEST(Threads, AContextMayMove) {
    const Model model = load();
    const Context ctx = context(model.get(), 64, 3);
    const std::vector<int32_t> tokens = prompt(6);
    for (const int32_t token : tokens) std::thread([&] { EXPECT_OK(eval(ctx.get(), {token})); }).join();
    EXPECT_EQ(row(ctx.get()), logits_after(model.get(), tokens));
}

}  // namespace
}  // namespace bitnet_test
